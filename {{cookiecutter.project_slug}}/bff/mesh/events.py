"""Events of the mesh, and the rules that say what is done with them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

_RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class RetryEvent(Exception):
    """Raised by a handler that cannot work now: the same event is tried again, in its place."""


@dataclass(frozen=True, slots=True)
class MeshEvent:
    """One event as its publisher sent it."""

    topic: str
    payload: Any
    context: dict[str, Any]
    trace_id: str | None
    correlation_id: str
    """Shared by all events that a service sends for one request."""
    target: list[Any] | None
    id: str = ""
    """The event's own, the same at each redelivery: correlation id and a digest of the body."""


@dataclass
class EventHandler:
    """What to do with the events of a topic: one after the other, in the order they came."""

    name: str
    """Names the rule's durable queue. Another topic pattern needs another name."""
    topic: str
    """A pattern: `*` stands for one word, `#` for any number of words."""
    handler: Callable[[MeshEvent], Awaitable[None]]
    """Returns when the event is taken. Raises `RetryEvent` to be called again with it; after
    any other error the event goes to the dead letters."""

    def __post_init__(self) -> None:
        if not _RULE_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} names no rule: letters, digits, dots and dashes do")
        if not 0 < len(self.topic.encode()) <= 255:
            raise ValueError(f"rule {self.name!r}: a topic has 1 to 255 bytes")


def topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic fits a pattern, by the rules of AMQP's topic exchange."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return topic_matches(pattern[1:], words) or bool(
            words and topic_matches(pattern, words[1:])
        )
    return bool(words) and pattern[0] in ("*", words[0]) and topic_matches(pattern[1:], words[1:])

"""Events of the mesh, and the handlers that receive them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

REDELIVERY_SECONDS: Final = 7 * 24 * 3600
"""For how long an event may be delivered again: then RabbitMQ deletes a queue without a consumer.
"""
_HANDLER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class RetryEvent(Exception):
    """Raised by an event handler that cannot handle an event now.

    The same event is handed to it again, before any later event. With `limited` this ends after
    `MAX_EVENT_RETRIES` or `EVENT_RETRY_SECONDS`, and the event becomes a dead letter. Without it,
    the event waits as long as it takes: for faults that concern every event alike.
    """

    def __init__(self, reason: str = "", *, limited: bool = True) -> None:
        super().__init__(reason)
        self.limited = limited


@dataclass(frozen=True, slots=True)
class MeshEvent:
    """One event as its publisher sent it."""

    topic: str
    payload: Any
    context: dict[str, Any]
    trace_id: str | None
    correlation_id: str
    """The same for all events that a service publishes during one request."""
    target: list[Any] | None
    id: str = ""
    """Unique, and the same at each redelivery: correlation id and digest of the body."""
    on_settled: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)
    """Functions that are called once the event is acknowledged and cannot come again. They are not
    called when the connection is lost before that is certain, nor for dead letters."""


@dataclass
class EventHandler:
    """Handles the events of a topic pattern, one at a time, in the order of arrival."""

    name: str
    """Part of the name of the handler's durable queue. Choose another name when you change the
    topic pattern."""
    topic: str
    """A pattern: `*` matches one word, `#` any number of words."""
    handler: Callable[[MeshEvent], Awaitable[None]]
    """Returns when the event has been handled. Raises `RetryEvent` to get the event again. After
    any other error the event moves to the dead-letter queue."""
    unavailable: Callable[[], str] = lambda: ""
    """Why `handler` could handle no event now, for example because Redis is unavailable; or empty.
    Meanwhile RabbitMQ's queue is not consumed: whenever the connection of a consumer is lost,
    RabbitMQ counts a delivery for the event that it holds."""

    def __post_init__(self) -> None:
        if not _HANDLER_NAME.fullmatch(self.name):
            raise ValueError(
                f"event handler {self.name!r}: a name has 1 to 100 letters, digits, dots, dashes "
                "and underscores, and begins with a letter or digit"
            )
        if not 0 < len(self.topic.encode()) <= 255:
            raise ValueError(f"event handler {self.name!r}: a topic has 1 to 255 bytes")

"""What is a valid user id, event name, topic, connection id, trace id and method, everywhere.

Such a text becomes part of JSON, Redis keys, envelopes, AMQP properties and log lines. The same
text is accepted everywhere: in frames, URLs, HTTP bodies, mesh methods, tokens and by `Messenger`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from bff.errors import Code, Problem

MAX_USER_ID: Final = 128
MAX_EVENT_NAME: Final = 255
MAX_CONNECTION_ID: Final = 128
MAX_TRACE_ID: Final = 128
"""Maximum lengths, in characters."""

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
"""C0, DEL and C1: the characters of Unicode's category `Cc`."""
_TEXT: Final = re.compile(rf"[^{_CONTROL}\ud800-\udfff]+")
"""Surrogates have no encoding in UTF-8."""

NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
TOPIC: Final = rf"[^\s,{_CONTROL}\ud800-\udfff]{{1,{MAX_EVENT_NAME}}}"
_TOPIC: Final = re.compile(TOPIC)
_CONNECTION_ID: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

_TEXT_RULE: Final = "characters without control characters"
USER_ID_RULE: Final = f"not a user id: use 1 to {MAX_USER_ID} {_TEXT_RULE}"
EVENT_NAME_RULE: Final = f"not an event name: use 1 to {MAX_EVENT_NAME} {_TEXT_RULE}"
TOPIC_RULE: Final = (
    f"not a topic: use 1 to {MAX_EVENT_NAME} characters without spaces, commas and control "
    "characters"
)
CONNECTION_ID_RULE: Final = "not a connection id: <instance>.<random>"
TRACE_ID_RULE: Final = f"not a trace id: use 1 to {MAX_TRACE_ID} {_TEXT_RULE}"


def is_text(text: str) -> bool:
    """Whether it is not empty, well-formed Unicode, and without control characters."""
    # `isprintable` is fast, and refuses some valid text too.
    return text != "" and (text.isprintable() or _TEXT.fullmatch(text) is not None)


def is_user_id(text: object) -> bool:
    """Whether it can be the id of a user."""
    return isinstance(text, str) and len(text) <= MAX_USER_ID and is_text(text)


def is_event_name(text: object) -> bool:
    """Whether an event can have this topic. Browsers cannot subscribe to all of these."""
    return isinstance(text, str) and len(text) <= MAX_EVENT_NAME and is_text(text)


def is_topic(text: object) -> bool:
    """Whether browsers may subscribe to it: an event name without spaces and commas, because a
    cursor joins the ids of streams with commas."""
    return isinstance(text, str) and _TOPIC.fullmatch(text) is not None


def is_connection_id(text: object) -> bool:
    """Whether it has the form `<instance>.<random>`."""
    return (
        isinstance(text, str)
        and len(text) <= MAX_CONNECTION_ID
        and _CONNECTION_ID.fullmatch(text) is not None
    )


def is_trace_id(text: object) -> bool:
    """Whether it can be the id of a request."""
    return isinstance(text, str) and len(text) <= MAX_TRACE_ID and is_text(text)


def topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic matches a pattern, by the rules of AMQP's topic exchange.

    Both are given as their words, without the dots. Each `#` takes as few words as possible, so
    only the last one before a mismatch can take more: the time does not grow with the number of
    `#`.
    """
    at = word = 0
    after_hash, taken = -1, 0
    while word < len(words):
        if at < len(pattern) and pattern[at] == "#":
            at += 1
            after_hash, taken = at, word
        elif at < len(pattern) and pattern[at] in ("*", words[word]):
            at, word = at + 1, word + 1
        elif after_hash >= 0:
            taken += 1
            at, word = after_hash, taken
        else:
            return False
    return all(one == "#" for one in pattern[at:])


def check_user_id(user_id: str) -> None:
    """
    Raises:
        Problem: `invalid_params`.
    """
    if not is_user_id(user_id):
        raise _invalid(USER_ID_RULE)


def check_id(text: str, what: str) -> None:
    """An id that another system made: of a session, of a token.

    Raises:
        Problem: `invalid_params`.
    """
    if not is_user_id(text):
        raise _invalid(f"not {what}: use 1 to {MAX_USER_ID} {_TEXT_RULE}")


def check_event_name(topic: str) -> None:
    """
    Raises:
        Problem: `invalid_params`.
    """
    if not is_event_name(topic):
        raise _invalid(EVENT_NAME_RULE)


def check_topic(topic: str) -> None:
    """
    Raises:
        Problem: `invalid_params`.
    """
    if not is_topic(topic):
        raise _invalid(TOPIC_RULE)


def check_connection_id(connection_id: str) -> None:
    """
    Raises:
        Problem: `invalid_params`.
    """
    if not is_connection_id(connection_id):
        raise _invalid(CONNECTION_ID_RULE)


def check_trace_id(trace_id: str) -> None:
    """
    Raises:
        Problem: `invalid_params`.
    """
    if not is_trace_id(trace_id):
        raise _invalid(TRACE_ID_RULE)


def check_idempotency_key(key: str) -> None:
    """
    Raises:
        Problem: `invalid_params`.
    """
    if not is_text(key):
        raise _invalid(f"not an idempotency key: use {_TEXT_RULE}")


def _invalid(rule: str) -> Problem:
    return Problem(Code.INVALID_PARAMS, rule)


def _validated(accepts: Callable[[object], bool], rule: str) -> AfterValidator:
    def validate(text: str) -> str:
        if not accepts(text):
            raise ValueError(rule)
        return text

    return AfterValidator(validate)


# Types for models and parameters. Pydantic would use another engine for a `pattern`; this way the
# decision is the same as that of the functions above.

UserId = Annotated[
    str,
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_USER_ID}),
    _validated(is_user_id, USER_ID_RULE),
]
EventName = Annotated[
    str,
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_EVENT_NAME}),
    _validated(is_event_name, EVENT_NAME_RULE),
]
TopicName = Annotated[
    str,
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_EVENT_NAME}),
    _validated(is_topic, TOPIC_RULE),
]
ConnectionId = Annotated[str, _validated(is_connection_id, CONNECTION_ID_RULE)]
TraceId = Annotated[str, _validated(is_trace_id, TRACE_ID_RULE)]
Name = Annotated[str, Field(pattern=rf"^{NAME}$")]
"""The name of a service or of a method."""


def check_lists(**names: Iterable[str]) -> None:
    """
    Raises:
        TypeError: a text was given in place of a list. Its characters would count as names.
    """
    for argument, value in names.items():
        if isinstance(value, str):
            raise TypeError(f"{argument}={value!r} is a text: write {argument}=[{value!r}]")

"""The messages between instances on pub/sub channels.

An envelope consists of lines. The first line is its kind. A text, if there is one, comes last and
may itself contain line breaks; the ids and topics before it cannot: `names.py` refuses them.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The first line of an envelope. An instance ignores the kinds that it does not know: during a
    rolling update a newer instance may send them."""

    USER = "user"
    """`user id`, `epoch`, `offset`, `text`: an event for all connections of a user."""
    ALL = "all"
    """empty line, `epoch`, `offset`, `text`: an event for every connection."""
    TOPIC = "topic"
    """`topic`, `epoch`, `offset`, `text`: an event for the topic's subscribers."""
    CONNECTION = "connection"
    """`connection id`, `text`: an event for one connection; it is not stored."""
    LOGGED = "logged"
    """`id in the control log`, then a control message that ends something."""
    USER_UNSTORED = "user_unstored"
    """`user id`, `text`: an event for all connections of a user; it is not stored."""
    ALL_UNSTORED = "all_unstored"
    """`text`: an event for every connection; it is not stored."""
    TOPIC_UNSTORED = "topic_unstored"
    """`topic`, `text`: an event for the topic's subscribers; it is not stored."""
    CLOSE_CONNECTION = "close_connection"
    """`connection id`, `code`: a control message."""
    CLOSE_USER = "close_user"
    """`user id`, `code`: a control message."""
    SUBSCRIBE_USER = "subscribe_user"
    """`user id`, `topic`: a control message."""
    UNSUBSCRIBE_USER = "unsubscribe_user"
    """`user id`, `topic`: a control message."""
    CLOSE_ALL = "close_all"
    """`code`: a control message."""
    REVOKED = "revoked"
    """`epoch`, `number of changes`, and `time <kind>:<id>` for each revocation: a control message
    to all instances."""
    PROBE = "probe"
    """No further lines: an instance sends it to itself to test its subscription."""


def envelope(kind: Kind, *lines: str) -> str:
    """An envelope with all its lines."""
    return "\n".join((kind, *lines))


def start_envelope(kind: Kind, target: str) -> str:
    """The first lines of a stored event's envelope. `send.lua` gives the event its offset, and adds
    epoch, offset and text."""
    return envelope(kind, target, "")

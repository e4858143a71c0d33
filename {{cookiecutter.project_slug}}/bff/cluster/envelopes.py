"""What instances tell each other on their channels: lines, the last of which may be a text."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The first line of an envelope. Unknown kinds are ignored: a newer instance may know more."""

    USER = "user"
    """`user id`, `epoch`, `offset`, `text`: for all connections of a user."""
    ALL = "all"
    """`` (nothing), `epoch`, `offset`, `text`: for every connection."""
    TOPIC = "topic"
    """`topic`, `epoch`, `offset`, `text`: for its subscribers."""
    CONNECTION = "connection"
    """`connection id`, `text`: for one connection; it is not stored."""
    CLOSE_CONNECTION = "close_connection"
    """`connection id`, `code`."""
    CLOSE_USER = "close_user"
    """`user id`, `code`."""
    SUBSCRIBE_USER = "subscribe_user"
    """`user id`, `topic`."""
    UNSUBSCRIBE_USER = "unsubscribe_user"
    """`user id`, `topic`."""
    CLOSE_ALL = "close_all"
    """`code`."""
    PROBE = "probe"
    """Nothing: the relay's proof to itself that it hears."""


def envelope(kind: Kind, *lines: str) -> str:
    """One message between instances, as it goes over the channel."""
    return "\n".join((kind, *lines))


def head(kind: Kind, reader: str) -> str:
    """A recoverable message's envelope up to the epoch; `send.lua` writes the rest."""
    return envelope(kind, reader, "")

"""Every code a socket can be closed with, and what the client should do then."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """4000 to 4499 mean "come back", 4500 to 4999 "do not" (`docs/protocol.md`).

    Of the standard codes (RFC 6455, section 7.4) 1001, 1006, 1011 and 1012 mean "come back" too,
    1003 and 1009 do not.
    """

    UNSUPPORTED_DATA = 1003
    """A binary frame."""
    MESSAGE_TOO_BIG = 1009
    """A frame larger than `MAX_FRAME_BYTES`."""
    DRAIN = 4001
    """The instance is going away; another takes over."""
    SLOW_CONSUMER = 4002
    """More was waiting for the socket than `MAX_QUEUE_BYTES`."""
    TOKEN_EXPIRED = 4003
    """Come back with a fresh token."""
    NO_PONG = 4004
    SERVER_ERROR = 4006
    TOO_MANY_REQUESTS = 4007
    """The client went on although it was told `rate_limited`."""
    CONNECTION_LIMIT = 4008
    """The user has `MAX_CONNECTIONS_PER_USER` sockets already."""
    NOT_AUTHENTICATED = 4500
    BAD_FRAME = 4501
    """Nothing but rubbish came."""
    REVOKED = 4504
    """An administrator ended it."""

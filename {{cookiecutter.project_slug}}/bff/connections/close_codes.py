"""Every WebSocket close code that the BFF sends or sees, and what a client should do next."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """WebSocket close codes: those of RFC 6455, section 7.4.1, and the BFF's own, 4000 to 4999.

    Of the BFF's own, 4000 to 4499 mean "reconnect" and 4500 to 4999 "do not reconnect". Of the
    standard codes 1001, 1006, 1011 and 1012 mean "reconnect", 1002, 1003, 1007 and 1009 mean "do
    not reconnect" (`docs/protocol.md`).
    """

    NORMAL = 1000
    """The client closed the connection, or an endpoint is finished."""
    PROTOCOL_ERROR = 1002
    """A frame violates RFC 6455."""
    UNSUPPORTED_DATA = 1003
    """The client sent a binary frame."""
    NO_STATUS = 1005
    """The client's close frame has no code. Never sent."""
    ABNORMAL = 1006
    """The connection was lost without a close frame. Never sent."""
    INVALID_DATA = 1007
    """A text frame, or a close reason, is not valid UTF-8."""
    MESSAGE_TOO_BIG = 1009
    """A message is larger than `MAX_FRAME_BYTES`."""
    INTERNAL_ERROR = 1011
    """An endpoint or a frame handler raised an unexpected exception."""
    SERVICE_RESTART = 1012
    """The server shut down before the connection was drained."""
    DRAIN = 4001
    """The instance is shutting down; reconnect to another one."""
    SLOW_CONSUMER = 4002
    """More than `MAX_QUEUE_BYTES` were waiting to be sent to the client."""
    TOKEN_EXPIRED = 4003
    """Reconnect with a fresh token."""
    NO_PONG = 4004
    """No pong arrived within `PING_TIMEOUT_SECONDS`."""
    SERVER_ERROR = 4006
    """Redis or the identity provider is unavailable."""
    TOO_MANY_REQUESTS = 4007
    """The client kept sending although its frames were answered with `rate_limited`."""
    CONNECTION_LIMIT = 4008
    """The user already has `MAX_CONNECTIONS_PER_USER` connections."""
    NOT_AUTHENTICATED = 4500
    """The client presented no valid token or ticket."""
    BAD_FRAME = 4501
    """The client sent several frames in a row that cannot be parsed."""
    REVOKED = 4504
    """An administrator closed the connection."""
    SESSION_ENDED = 4505
    """The session has ended or was revoked; sign in again."""


_SENDABLE = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)))


_FINAL = frozenset((1000, 1002, 1003, 1007, 1009))


def reconnects(code: int) -> bool:
    """Whether a client reconnects after this code."""
    return code not in _FINAL and code < 4500


_LABELS = {code: str(code) for code in (*range(1000, 1016), *(int(code) for code in CloseCode))}


def close_code_label(code: int) -> str:
    """A close code as a label of metrics. Peers choose from thousands of codes, so all that are
    neither the BFF's nor standard ones share the label `other`."""
    return _LABELS.get(code, "other")


def is_sendable(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455, section 7.4.2, and IANA's registry)."""
    return code in _SENDABLE

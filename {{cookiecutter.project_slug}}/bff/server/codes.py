"""Close codes of the WebSocket protocol itself (RFC 6455, section 7.4.1)."""

from __future__ import annotations

from typing import Final

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
"""Nobody named a code. Never sent."""
ABNORMAL: Final = 1006
"""The connection was lost. Never sent."""
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012

_MAY_BE_SENT: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)))


def may_be_sent(code: int) -> bool:
    """Whether a close frame may name it (section 7.4.2, and what IANA has registered since)."""
    return code in _MAY_BE_SENT

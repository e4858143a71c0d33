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

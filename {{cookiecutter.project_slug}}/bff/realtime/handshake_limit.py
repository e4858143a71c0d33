"""Limits the handshakes of WebSockets and event streams, before anything else is done for them."""

from __future__ import annotations

import ipaddress
import logging
import time
from typing import Final

from bff.errors import Code, Problem
from bff.realtime.limits import TokenBucket, TokenBuckets
from bff.settings import Settings
from bff.telemetry.metrics import CONNECTIONS_REFUSED

logger = logging.getLogger(__name__)

_BURST_SECONDS: Final = 10
"""The handshakes of this time may come at once."""
_LOG_SECONDS: Final = 60.0
_IPV6_PREFIX: Final = 64
"""One customer of a provider has all addresses of this prefix (RFC 6177)."""


class HandshakeLimit:
    """`MAX_HANDSHAKES_PER_SECOND_PER_ADDRESS` and `MAX_HANDSHAKES_PER_SECOND`."""

    def __init__(self, settings: Settings) -> None:
        total = settings.max_handshakes_per_second
        by_address = settings.max_handshakes_per_second_per_address
        self._total = TokenBucket(total, total * _BURST_SECONDS) if total else None
        self._by_address = (
            TokenBuckets(by_address, by_address * _BURST_SECONDS) if by_address else None
        )
        self._logged_at = dict.fromkeys(("address", "total"), -_LOG_SECONDS)

    def check(self, address: str) -> None:
        """Count a handshake from this address, which may be empty if it is not known.

        Raises:
            Problem: `rate_limited`, with the time until the next handshake is accepted.
        """
        by_address = self._by_address
        if by_address is not None and address and (seconds := by_address.take(_network(address))):
            self._refuse("address", address, seconds)
        if self._total is not None and (seconds := self._total.take()):
            self._refuse("total", address, seconds)

    def _refuse(self, limit: str, address: str, seconds: float) -> None:
        CONNECTIONS_REFUSED.labels(limit).inc()
        now = time.monotonic()
        if now - self._logged_at[limit] >= _LOG_SECONDS:
            self._logged_at[limit] = now
            logger.warning("handshakes refused", extra={"limit": limit, "address": address})
        raise Problem(Code.RATE_LIMITED, "Too many connects: wait", retry_after_seconds=seconds)


def _network(address: str) -> str:
    """The address, or the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(int(parsed) >> (128 - _IPV6_PREFIX))

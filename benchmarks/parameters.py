"""All that may be tuned: how much, how long, how often."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_BYTES = 126
"""Of a broadcast message on the wire, its frame's header included."""
BURST = 20
"""Broadcasts sent at once."""
OPENING = 50
"""Handshakes under way at a time."""
USERS_IN_FLIGHT = 100
"""Sends to single users under way at a time."""
INSTANCES_IN_FLIGHT = 4
"""Messages under way at a time from one instance to the other."""
CALLERS = 50
"""Sockets that call the service mesh, each one call at a time."""
LONE_BROADCASTS = 5
"""During which the loop's lag is measured, one after the other."""
WARM = 100
"""Sockets opened before memory is first looked at."""
PATIENCE_SECONDS = 60.0
"""What a server may take at most for what it was asked."""


@dataclass(frozen=True)
class Parameters:
    rounds: int
    sizes: tuple[int, ...]
    """Sockets that a broadcast goes to."""
    audience: int
    """Sockets for bursts, latencies, user sends and the two instances."""
    seconds: float
    """How long a server sends, in each measure."""
    settle: float
    """Seconds before memory is looked at."""
    idle: int
    """Sockets over which memory and connecting are measured."""
    crowd: int
    """Sockets during whose broadcast the loop's lag is measured."""
    starts: int


FULL = Parameters(
    rounds=3,
    sizes=(100, 1_000, 5_000),
    audience=1_000,
    seconds=1.0,
    settle=1.0,
    idle=2_000,
    crowd=10_000,
    starts=3,
)
QUICK = Parameters(
    rounds=2,
    sizes=(100, 1_000),
    audience=1_000,
    seconds=0.5,
    settle=1.0,
    idle=1_000,
    crowd=5_000,
    starts=1,
)

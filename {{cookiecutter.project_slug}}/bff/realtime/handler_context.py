"""What every connection handler of an instance uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bff.auth.caller import Caller
from bff.broadcasts.service import BroadcastService
from bff.cluster.revocations import Revocations
from bff.cluster.subscriptions import Subscriptions
from bff.connections.registry import ConnectionRegistry
from bff.realtime.dispatcher import Dispatcher
from bff.realtime.limits import TokenBuckets
from bff.realtime.topic_limit import TopicLimit
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

Verify = Callable[[str], Awaitable[Caller]]
"""Checks a token. Raises `Problem` with `unauthenticated` when it is not valid."""


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """The parts of the instance that its connection handlers share. Made once, by `Bff`."""

    instance_id: str
    registry: ConnectionRegistry
    subscriptions: Subscriptions
    dispatcher: Dispatcher
    broadcasts: BroadcastService
    verify: Verify
    revocations: Revocations
    allowances: TokenBuckets
    """What each user may still send to this instance, over all connections and HTTP."""
    topic_limit: TopicLimit
    settings: Settings
    metrics: Metrics

"""What all parts of a cluster member share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bff.cluster.keys import Keys
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """The shared parts, made once by `ClusterMember`."""

    instance_id: str
    redis: RedisClient
    pipeline: AutoPipeline
    keys: Keys
    registry: ConnectionRegistry
    settings: Settings
    metrics: Metrics
    resync_needed: asyncio.Event
    """Set when this instance may have missed messages; `StreamHub` then compares every stream
    with Redis."""
    users_to_compare: set[str]
    """Users without a connection here, of whom this instance may have an entry in the index;
    `Reconciler` compares them next."""

    @property
    def own_channel(self) -> str:
        """The pub/sub channel of this instance."""
        return self.keys.instance_channel_prefix + self.instance_id

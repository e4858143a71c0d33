"""This process as a member of the cluster: every part of the room made and joined."""

from __future__ import annotations

import asyncio
import secrets

from bff.cluster.channels import Channels
from bff.cluster.feeds import Feeds
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.relay import Relay
from bff.cluster.streams import StreamReader
from bff.cluster.subscriptions import Subscriptions
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics


class Instance:
    """What is sent comes from `messenger`, what is heard through `relay` and `feeds`."""

    def __init__(
        self,
        redis: RedisClient,
        settings: Settings,
        metrics: Metrics,
        *,
        presence_is_watched: bool = False,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.registry = ConnectionRegistry()
        self.pipeline = AutoPipeline(redis)
        missed = asyncio.Event()
        presence_queue = PresenceQueue(self.pipeline, settings, watched=presence_is_watched)
        self.index = ConnectionIndex(
            self.id, redis, self.pipeline, self.registry, presence_queue, missed, settings, metrics
        )
        self.messenger = Messenger(self.pipeline, self.index, settings, metrics)
        self.presence = Presence(
            self.pipeline, self.index, presence_queue, self.messenger, settings
        )
        keys = Keys(settings.prefix)
        channels = Channels(keys.to_instance + self.id, keys.to_all)
        reader = StreamReader(self.pipeline, settings)
        self.feeds = Feeds(self.index, self.registry, channels, reader, missed, settings, metrics)
        self.subscriptions = Subscriptions(
            self.index, self.registry, self.feeds, channels, reader, settings
        )
        self.relay = Relay(
            self.id,
            redis,
            self.registry,
            channels,
            self.feeds,
            self.subscriptions,
            missed,
            settings,
            metrics,
        )

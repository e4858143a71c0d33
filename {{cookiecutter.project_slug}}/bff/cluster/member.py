"""This process as a member of the cluster: every part of the room made and joined."""

from __future__ import annotations

import asyncio
import secrets

from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.pubsub_listener import PubSubListener
from bff.cluster.stream_hub import StreamHub
from bff.cluster.streams import StreamReader
from bff.cluster.subscriptions import Subscriptions
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics


class ClusterMember:
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
        channels = PubSubChannels(keys.to_instance + self.id, keys.to_all)
        reader = StreamReader(self.pipeline, settings)
        self.hub = StreamHub(self.index, self.registry, channels, reader, missed, settings, metrics)
        self.subscriptions = Subscriptions(
            self.index, self.registry, self.hub, channels, reader, settings
        )
        self.listener = PubSubListener(
            self.id,
            redis,
            self.registry,
            channels,
            self.hub,
            self.subscriptions,
            missed,
            settings,
            metrics,
        )

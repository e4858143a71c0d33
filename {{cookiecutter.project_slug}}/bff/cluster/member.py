"""This process as a member of the cluster: makes and connects all parts of this package."""

from __future__ import annotations

import asyncio
import secrets

from bff.cluster.context import ClusterContext
from bff.cluster.control_log import ControlLog
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.pubsub_listener import PubSubListener
from bff.cluster.revocations import Revocations
from bff.cluster.stream_hub import StreamHub
from bff.cluster.stream_registry import StreamRegistry
from bff.cluster.streams import StreamReader
from bff.cluster.subscriptions import Subscriptions
from bff.connections.declared_events import DeclaredEvents
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics


class ClusterMember:
    """One instance's part of the cluster.

    `messenger` sends to all instances. `pubsub_listener` receives what they send, and `stream_hub`
    delivers it to the connections in `registry`.
    """

    def __init__(
        self,
        redis: RedisClient,
        settings: Settings,
        metrics: Metrics,
        *,
        presence_is_watched: bool = False,
        declared: DeclaredEvents | None = None,
    ) -> None:
        """Without `presence_is_watched`, changes of presence are neither detected nor announced.
        `declared`: the events of the app."""
        self.id = secrets.token_hex(6)
        self.registry = ConnectionRegistry()
        self.pipeline = AutoPipeline(redis)
        self.context = ClusterContext(
            instance_id=self.id,
            redis=redis,
            pipeline=self.pipeline,
            keys=Keys(settings.prefix),
            registry=self.registry,
            settings=settings,
            metrics=metrics,
            resync_needed=asyncio.Event(),
            users_to_compare=set(),
        )
        channels = PubSubChannels(self.context.own_channel, self.context.keys.all_channel)
        reader = StreamReader(self.pipeline, self.context.keys, settings)
        presence_queue = PresenceQueue(self.context, watched=presence_is_watched)
        self.index = ConnectionIndex(self.context, reader, presence_queue)
        control_log = ControlLog(self.context)
        self.revocations = Revocations(self.context)
        self.messenger = Messenger(
            self.context,
            self.index,
            control_log,
            self.revocations,
            declared or DeclaredEvents(),
        )
        self.presence = Presence(self.context, self.index, presence_queue, self.messenger)
        self.streams = StreamRegistry(self.context)
        self.stream_hub = StreamHub(self.context, self.streams, self.index, channels, reader)
        self.subscriptions = Subscriptions(
            self.context, self.streams, self.index, self.stream_hub, channels, reader
        )
        self.pubsub_listener = PubSubListener(
            self.context,
            self.streams,
            channels,
            self.stream_hub,
            self.subscriptions,
            control_log,
            self.revocations,
        )

    async def stop(self) -> None:
        """Cancel the tasks of streams and subscriptions. Stop the listener first, which starts some
        of them."""
        await asyncio.gather(self.stream_hub.stop(), self.subscriptions.stop())

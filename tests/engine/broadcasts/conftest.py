"""The broadcast service with a database and Redis, and a messenger that records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from bff.broadcasts.service import BroadcastService
from bff.cluster.keys import Keys
from bff.cluster.messenger import Sent
from bff.cluster.streams import PageWithVersions, StreamReader
from bff.connections.messages import Event
from bff.db.database import Database
from bff.names import check_event_name
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

from tests.engine.db.conftest import database, settings  # noqa: F401


@dataclass
class RecordingMessenger:
    """A messenger that records its calls; two connections for every user, five in total."""

    sent: list[tuple[str, Any, str, Any]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    failure: Exception | None = None

    def check_event(self, topic: str, event: Any) -> None:
        check_event_name(topic)

    async def to_all(self, topic: str, event: Any) -> Sent:
        self._record("all", None, topic, event)
        return Sent("all/e/1", 5)

    async def to_users(self, user_ids: list[str], topic: str, event: Any) -> list[Sent]:
        self._record("users", user_ids, topic, event)
        return [Sent(f"user/{user_id}/1", 2) for user_id in user_ids]

    async def to_connection(self, connection_id: str, topic: str, event: Any) -> Sent:
        self._record("connection", connection_id, topic, event)
        return Sent(None, 1)

    async def close_user(self, user_id: str) -> int:
        self.closed.append(user_id)
        return 2

    def _record(self, audience: str, to: Any, topic: str, event: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append((audience, to, topic, event))


@pytest.fixture
def messenger() -> RecordingMessenger:
    return RecordingMessenger()


class Service(BroadcastService):
    """With the part of a connect that reads the retained broadcasts."""

    def __init__(
        self,
        database: Database,
        redis: RedisClient,
        messenger: RecordingMessenger,
        settings: Settings,
    ) -> None:
        pipeline = AutoPipeline(redis)
        super().__init__(database, pipeline, messenger, settings)  # type: ignore[arg-type]
        self._reader = StreamReader(pipeline, Keys(settings.prefix), settings)

    async def retained_at_connect(self, user_id: str) -> list[Event]:
        """The retained broadcasts that a user gets who connects now."""
        read = PageWithVersions.of(await self._reader.request_all(None))
        return await self.retained_for(user_id, read.retained_version)


@pytest.fixture
def service(
    database: Database, redis: RedisClient, messenger: RecordingMessenger, settings: Settings
) -> Service:
    return Service(database, redis, messenger, settings)

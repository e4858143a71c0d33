"""What is still of interest to somebody who connects now, without asking the database for each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.cluster.pipeline import SharedPipeline
from app.connections.messages import Event
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Greeting:
    """A broadcast that has not expired."""

    event: Event
    expires_at: datetime
    users: frozenset[str] | None
    """None for everybody."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    version: bytes | None
    greetings: Sequence[Greeting]


class Greetings:
    """This instance's copy of the greetings, good for as long as Redis names its version.

    The version is random and written after a broadcast is committed. It is read before the
    database is, so a copy can be newer than its version, never older.
    """

    def __init__(
        self,
        pipeline: SharedPipeline,
        settings: Settings,
        load: Callable[[], Awaitable[Sequence[Greeting]]],
    ) -> None:
        self._pipeline = pipeline
        self._key = f"{settings.prefix}:greetings"
        self._load = load
        self._loaded: _Loaded | None = None
        self._loading = asyncio.Lock()

    async def renew(self) -> None:
        """Make every instance load anew."""
        await self._pipeline.submit("SET", self._key, uuid.uuid4().hex)

    async def of(self, user_id: str) -> list[Event]:
        """The user's greetings, oldest first."""
        now = datetime.now(UTC)
        return [
            greeting.event
            for greeting in await self._current()
            if greeting.expires_at > now and (greeting.users is None or user_id in greeting.users)
        ]

    async def _current(self) -> Sequence[Greeting]:
        version = await self._version()
        loaded = self._loaded
        if loaded is not None and loaded.version == version:
            return loaded.greetings
        async with self._loading:
            loaded = self._loaded
            if loaded is None or loaded.version != version:
                version = await self._version()
                if loaded is None or loaded.version != version:
                    loaded = self._loaded = _Loaded(version, await self._load())
            return loaded.greetings

    async def _version(self) -> bytes | None:
        version: bytes | str | None = await self._pipeline.submit("GET", self._key)
        return version.encode() if isinstance(version, str) else version

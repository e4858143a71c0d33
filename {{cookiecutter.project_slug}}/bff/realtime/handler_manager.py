"""A socket's life, from being let in to being gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from bff.auth.caller import Caller
from bff.broadcasts.service import BroadcastService
from bff.cluster.subscriptions import JoinedStream, Subscriptions, beginnings, positions, recovered
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection, new_connection_id
from bff.connections.messages import Event, Hello
from bff.connections.positions import Position
from bff.connections.registry import ConnectionRegistry
from bff.connections.transport import Transport
from bff.errors import Code, Problem
from bff.realtime.connection_handler import ConnectionHandler, Verify
from bff.realtime.dispatcher import Dispatcher
from bff.redis.client import UNAVAILABLE
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class HandlerManager:
    """Opens and closes conversations; the registry and the index know of those that are open."""

    def __init__(
        self,
        instance_id: str,
        registry: ConnectionRegistry,
        subscriptions: Subscriptions,
        dispatcher: Dispatcher,
        broadcasts: BroadcastService,
        verify: Verify,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._subscriptions = subscriptions
        self._dispatcher = dispatcher
        self._broadcasts = broadcasts
        self._verify = verify
        self._settings = settings
        self._metrics = metrics
        self._open: set[ConnectionHandler] = set()

    def __iter__(self) -> Iterator[ConnectionHandler]:
        """The open conversations; a copy, safe to keep while sockets come and go."""
        return iter(tuple(self._open))

    def open(
        self, transport: Transport, caller: Caller, *, address: str = "", device: str = ""
    ) -> ConnectionHandler:
        """A conversation on an accepted socket, known on this instance; what it says is held."""
        connection = Connection(
            new_connection_id(self._instance_id),
            caller.user_id,
            transport,
            max_queue_bytes=self._settings.max_queue_bytes,
            facts={
                "since": time.time(),
                "address": address,
                "device": device[:200],
                "session": caller.session_id,
            },
        )
        self._registry.register(connection)
        self._metrics.connections.inc()
        self._metrics.connections_opened.inc()
        handler = ConnectionHandler(
            connection,
            caller,
            self._dispatcher,
            self._subscriptions,
            self._verify,
            self._settings,
            self._metrics,
        )
        self._open.add(handler)
        return handler

    async def admit(
        self,
        handler: ConnectionHandler,
        since: Mapping[str, Position],
        topics: Collection[str] = (),
    ) -> None:
        """Make it known everywhere, say hello, and bring it up to the live flow.

        `since` is where the client has read to, in the streams `user`, `all` and those of the
        `topics` that it has from the beginning; whoever calls has checked that it may. Greetings
        are read when every later broadcast finds the connection already; who has missed nothing of
        `user` and `all` knows them. A connection that cannot be admitted is closed with the code
        that says why, before anything was sent.
        """
        connection, caller = handler.connection, handler.caller
        try:
            entered = await self._subscriptions.enter(connection, since)
            joined = entered.joined
            has_missed = not since or list(recovered(joined).values()) != [True, True]
            retained = await self._retained(caller, entered.retained) if has_missed else []
            more = await self._subscribe(connection, since, topics) if topics else ()
        except Problem as problem:
            too_many = problem.code is Code.RATE_LIMITED
            code = CloseCode.CONNECTION_LIMIT if too_many else CloseCode.SERVER_ERROR
            connection.close(code, problem.description)
        except UNAVAILABLE as error:
            logger.warning("socket refused, Redis: %s: %s", type(error).__name__, error)
            connection.close(CloseCode.SERVER_ERROR, "try again")
        else:
            all_joined = (*joined, *more)
            connection.open(self._hello(connection, caller, all_joined), beginnings(all_joined))
            for broadcast in retained:
                connection.send(broadcast)
            if connection.closing is None:
                handler.start_receiving()
            await self._subscriptions.catch_up(connection, joined)
        if self._registry.by_id(connection.id) is None:
            self._subscriptions.leave(connection)

    def close(self, handler: ConnectionHandler, code: int) -> None:
        """Forget a socket that is gone. `code` is what its peer closed it with."""
        connection = handler.connection
        code = connection.closing or code
        connection.close(code)
        handler.closed()
        self._open.discard(handler)
        self._subscriptions.leave(connection)
        self._metrics.connections.dec()
        self._metrics.connections_closed.labels(code).inc()
        logger.info(
            "socket closed",
            extra={
                "connection": connection.id,
                "user": connection.user_id,
                "code": code,
                "seconds": round(time.time() - connection.facts["since"], 1),
            },
        )

    async def _subscribe(
        self, connection: Connection, since: Mapping[str, Position], topics: Collection[str]
    ) -> Sequence[JoinedStream]:
        requests = {topic: since.get(f"topic:{topic}") for topic in topics}
        return await self._subscriptions.subscribe(connection, requests)

    def _hello(
        self, connection: Connection, caller: Caller, joined: Sequence[JoinedStream]
    ) -> Hello:
        what_is_recovered = recovered(joined)
        for is_recovered in what_is_recovered.values():
            self._metrics.recoveries.labels("recovered" if is_recovered else "lost").inc()
        return Hello(
            session_id=connection.id,
            user_id=caller.user_id,
            username=caller.username,
            expires_at=caller.expires_at,
            ping_interval=self._settings.ping_interval_seconds,
            positions=positions(joined),
            recovered=what_is_recovered,
        )

    async def _retained(self, caller: Caller, current: Position) -> list[Event]:
        try:
            return await self._broadcasts.retained_for(caller.user_id, current)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            logger.warning("no greetings for %s: %s", caller.user_id, reason)
            return []

"""Opens and admits the connections of this instance, and unregisters those that have ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from bff.auth.caller import Caller
from bff.auth.revocations import ENDED, Revocation, RevocationKind, SessionEnded
from bff.cluster.joined_streams import JoinedStreams
from bff.cluster.stream_hub import wait_for_room
from bff.connections.close_codes import CloseCode, close_code_label
from bff.connections.connection import Connection, new_connection_id
from bff.connections.frames import Frame
from bff.connections.messages import Event, Hello
from bff.connections.positions import Position
from bff.connections.transport import Transport
from bff.errors import Code, Problem
from bff.realtime.connection_handler import ConnectionHandler
from bff.realtime.handler_context import HandlerContext
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)


class HandlerManager:
    """Holds one `ConnectionHandler` for each open connection of this instance."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context
        development = context.settings.development
        self._topics = context.dispatcher.topic_patterns if development else None
        self._registry = context.registry
        self._subscriptions = context.subscriptions
        self._metrics = context.metrics
        self._revocations = context.revocations
        self._handlers: dict[Connection, ConnectionHandler] = {}

    def __iter__(self) -> Iterator[ConnectionHandler]:
        """The handlers of open connections: a copy, so connections may open and close meanwhile."""
        return iter(tuple(self._handlers.values()))

    def open(
        self, transport: Transport, caller: Caller, *, address: str = "", user_agent: str = ""
    ) -> ConnectionHandler:
        """Register an accepted connection on this instance. Frames to it wait in its queue, and
        frames from it are not read, until `admit` has sent the hello.

        `address` and `user_agent` are shown to administrators.
        """
        connection = Connection(
            new_connection_id(self._context.instance_id),
            caller.user_id,
            transport,
            max_queue_bytes=self._context.settings.max_queue_bytes,
            details={
                "connected_at": time.time(),
                "address": address,
                "user_agent": user_agent[:200],
                "session_id": caller.session_id,
            },
        )
        self._registry.register(connection)
        self._metrics.connections.inc()
        self._metrics.connections_opened.inc()
        handler = ConnectionHandler(connection, caller, self._context)
        self._handlers[connection] = handler
        return handler

    async def admit(
        self,
        handler: ConnectionHandler,
        since: Mapping[str, Position],
        topics: Collection[str] = (),
    ) -> None:
        """Enter the connection in the index in Redis, send the hello, and start the live streams.

        A connection that cannot be admitted is closed before anything is sent; the close code says
        why.

        Args:
            since: the client's positions in the streams `user`, `all` and those of `topics`.
            topics: the connection is subscribed to these from the start. The route has checked that
                the user may subscribe to them.
        """
        connection, caller = handler.connection, handler.caller
        try:
            with self._cancelled_by_unsubscribe(connection, topics):
                joined, versions = await self._subscriptions.join(connection, since)
                if await self._revocations.is_revoked_at(caller, versions.revocations_version):
                    raise SessionEnded
                version = versions.retained_version
                # A client that recovered both streams probably has the retained broadcasts:
                # reading them would only delay its hello.
                retained = [] if joined.are_recovered else await self._retained(caller, version)
            is_open = connection.close_code is None
            more = await self._subscribe(connection, since, topics) if topics and is_open else ()
        except Problem as problem:
            code = _close_code_of(problem)
            logger.info(
                "client connection refused", extra={**_log_fields(connection), "code": int(code)}
            )
            connection.close(code, problem.description)
        except UNAVAILABLE as error:
            logger.warning(
                "client connection refused: Redis unavailable",
                extra={"connection": connection.id, "reason": why(error)},
            )
            connection.close(CloseCode.SERVER_ERROR, "try again")
        else:
            streams = JoinedStreams((*joined, *more))
            hello = self._hello(connection, caller, streams)
            # The cursor becomes the `id` of the hello if the connection is an event stream.
            connection.open(hello, cursor=streams.cursor())
            if connection.close_code is None:
                logger.info("connection opened", extra=_log_fields(connection))
                handler.start_receiving()
            if joined.are_recovered:
                retained = await self._retained(caller, version)
            await self._send_retained(connection, retained)
            # `subscribe` has already started the catch-up of `more`.
            await self._subscriptions.catch_up(connection, joined)
        if self._registry.by_id(connection.id) is None:
            # It was closed meanwhile, perhaps before it was entered in the index.
            self._subscriptions.leave(connection)

    def on_closed(self, handler: ConnectionHandler, code: int, by_server: bool = False) -> None:
        """Unregister a connection that has ended. Call it once.

        `code` is the peer's close code, or the server's own if `by_server` is set.
        """
        connection = handler.connection
        by = "server" if by_server or connection.close_code is not None else "client"
        code = connection.close_code or code
        connection.close(code)
        handler.stop()
        self._handlers.pop(connection, None)
        self._subscriptions.leave(connection)  # also removes it from the registry
        self._metrics.connections.dec()
        self._metrics.connections_closed.labels(close_code_label(code), by).inc()
        logger.info(
            "connection closed",
            extra={
                **_log_fields(connection),
                "code": code,
                "by": by,
                "seconds": round(time.time() - connection.details["connected_at"], 1),
            },
        )

    def close_revoked(self, revocations: Sequence[Revocation]) -> None:
        """Close the connections of sessions, tokens and users that were revoked.

        A connection of a later sign-in of the user stays open.
        """
        names: dict[RevocationKind, set[str]] = {kind: set() for kind in RevocationKind}
        for revocation in revocations:
            names[revocation.kind].add(revocation.name)
        candidates = [
            handler
            for user_id in names[RevocationKind.USER]
            for connection in self._registry.by_user(user_id)
            if (handler := self._handlers.get(connection)) is not None
        ]
        sessions, tokens = names[RevocationKind.SESSION], names[RevocationKind.TOKEN]
        if sessions or tokens:
            candidates += [
                handler
                for handler in self
                if handler.caller.session_id in sessions or handler.caller.token_id in tokens
            ]
        for handler in candidates:
            if self._revocations.is_revoked(handler.caller):
                handler.connection.close(CloseCode.SESSION_ENDED, ENDED)

    def _cancelled_by_unsubscribe(
        self, connection: Connection, topics: Collection[str]
    ) -> AbstractContextManager[None]:
        """If the server unsubscribes the user from one of the topics, the admission fails with the
        problem `cancelled`."""
        if not topics:  # a WebSocket has none yet: it subscribes later, by a request
            return nullcontext()
        return self._subscriptions.cancelled_by_unsubscribe(connection, set(topics))

    async def _subscribe(
        self, connection: Connection, since: Mapping[str, Position], topics: Collection[str]
    ) -> JoinedStreams:
        self._context.topic_limit.take(connection.user_id, topics)
        requests = {topic: since.get(f"topic:{topic}") for topic in topics}
        return await self._subscriptions.subscribe(connection, requests)

    def _hello(self, connection: Connection, caller: Caller, streams: JoinedStreams) -> Hello:
        recovered = streams.recovered()
        for is_recovered in recovered.values():
            self._metrics.recoveries.labels("recovered" if is_recovered else "lost").inc()
        return Hello(
            connection_id=connection.id,
            user_id=caller.user_id,
            username=caller.username,
            expires_at=caller.expires_at,
            ping_interval=self._context.settings.ping_interval_seconds,
            positions=streams.positions(),
            recovered=recovered,
            topics=self._topics,
        )

    async def _retained(self, caller: Caller, version: Position) -> list[Event]:
        """The retained broadcasts as of this version or a newer one.

        They are sent at each connect: the client may have lost the previous connection before they
        arrived, or the database was unavailable then.

        They are read after `join`, so a later broadcast reaches the connection live.
        """
        try:
            return await self._context.broadcasts.retained_for(caller.user_id, version)
        except Problem as problem:
            logger.warning(
                "could not load retained broadcasts",
                extra={"user": caller.user_id, "reason": str(problem)},
            )
        except Exception:
            logger.exception("could not load retained broadcasts", extra={"user": caller.user_id})
        return []

    async def _send_retained(self, connection: Connection, retained: Iterable[Event]) -> None:
        for broadcast in retained:
            frame = Frame(broadcast.encode())
            await wait_for_room(connection, len(frame.payload))
            connection.send_frame(frame)


def _log_fields(connection: Connection) -> dict[str, str]:
    return {
        "connection": connection.id,
        "user": connection.user_id,
        "session": connection.details["session_id"],
        "address": connection.details["address"],
    }


def _close_code_of(problem: Problem) -> CloseCode:
    if isinstance(problem, SessionEnded):
        return CloseCode.SESSION_ENDED
    if problem.code is not Code.RATE_LIMITED:
        return CloseCode.SERVER_ERROR
    may_retry = problem.retry_after_seconds is not None
    return CloseCode.TOO_MANY_REQUESTS if may_retry else CloseCode.CONNECTION_LIMIT

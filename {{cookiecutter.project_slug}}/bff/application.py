"""Class `Bff`: creates, connects, starts and stops all parts of the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI

from bff import http_headers, problems
from bff.audit.log import AuditLog
from bff.auth.access_token import no_access_token
from bff.auth.authenticator import Authenticator
from bff.auth.caller import Caller
from bff.auth.oidc.sign_in import Authorize, SignIns
from bff.auth.origins import Origins
from bff.auth.session_cookie import SessionCookie
from bff.auth.sessions import SessionStore
from bff.auth.tickets import Tickets
from bff.auth.tokens import TokenVerifier
from bff.broadcasts.service import BroadcastService
from bff.cluster.member import ClusterMember
from bff.cluster.presence import PRESENCE_CHANGED, presence_topic
from bff.connections.declared_events import DeclaredEvents
from bff.contract.documents import Documents
from bff.db import database, migrate
from bff.db.database import Database
from bff.development import api_docs, identity_provider, page
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh
from bff.mesh.memory import MemoryBroker
from bff.mesh.service import Publish, Service
from bff.realtime.dispatcher import Dispatcher
from bff.realtime.drain import Draining
from bff.realtime.event_handler_names import EventHandlerNames
from bff.realtime.follow_ups import LATE_REPLY
from bff.realtime.handler_context import HandlerContext
from bff.realtime.handler_manager import HandlerManager
from bff.realtime.handshake_limit import HandshakeLimit
from bff.realtime.injection import HandlerDependencies
from bff.realtime.limits import TokenBuckets
from bff.realtime.mesh_handlers import join_mesh
from bff.realtime.router import RealtimeRouter
from bff.realtime.session_check import SessionCheck
from bff.realtime.topic_limit import TopicLimit
from bff.realtime.user_check import StillAllowed, UserCheck
from bff.redis import client as redis_client
from bff.redis.client import UNAVAILABLE, why
from bff.redis.eviction import EvictionCheck
from bff.settings import Settings
from bff.shutdown import drain_before_shutdown
from bff.tasks import ServiceTasks
from bff.telemetry import logs
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
Provider = Callable[["Bff"], AbstractAsyncContextManager[Any]]
StandIn = Callable[[Publish], Service]

_PUBSUB_SECONDS = 5.0
"""How long the start waits for the pub/sub subscription. Without it the app starts, but is not
ready."""
_LEAVE_SECONDS = 5.0
"""How long the stop waits for Redis. Entries that remain expire with the lease."""


class Bff:
    """A backend-for-frontend. It opens no connection before its lifespan starts."""

    def __init__(
        self,
        settings: Settings,
        *,
        realtime: Sequence[RealtimeRouter] = (),
        provide: Mapping[type[Any], Provider] | None = None,
        stand_ins: Sequence[StandIn] = (),
        broker: MemoryBroker | None = None,
        authorize: Authorize | None = None,
        still_allowed: StillAllowed | None = None,
    ) -> None:
        """Create all parts.

        * `realtime`: one router per feature, with the methods, topics and event handlers offered to
          browsers and services.
        * `provide`: your own resources, by the type that handlers and endpoints declare. Each value
          is a function that takes this `Bff` and returns an async context manager, which is entered
          when the app starts and exited when the app stops.
        * `stand_ins`: functions that take `publish` and return a service. With
          `AMQP_URL=memory://` these services run in the process; with RabbitMQ they are ignored.
        * `authorize`: decides about each user who signs in with `OIDC_ISSUER`. An async function
          that takes the claims and the scopes according to `OIDC_SCOPES_CLAIM`. It returns the
          user's scopes, or raises `Problem(Code.FORBIDDEN)`.
        * `still_allowed`: decides about each user who is connected, again and again. An async
          function that takes the `Caller`. If it returns False, the user is revoked everywhere.
        * `broker`: the in-process mesh for `AMQP_URL=memory://`. Pass one to share it with other
          mesh clients of the process.

        Raises:
            ValueError: two routers declare the same name, or a stand-in has the name `APP_NAME`.
            TypeError: a handler declares a type that neither the engine nor `provide` provides.
        """
        logs.configure(settings)
        self.settings = settings
        self.stand_ins = tuple(stand_ins)
        self.metrics = Metrics()
        self.database = Database(settings)
        self.audit = AuditLog(self.database, settings, self.metrics)
        self.realtime = RealtimeRouter()
        for router in realtime:
            self.realtime.include(router)

        self.redis = redis_client.create_client(settings.redis_url)
        self.eviction = EvictionCheck(self.redis, settings.redis_url)
        self.cluster = ClusterMember(
            self.redis,
            settings,
            self.metrics,
            presence_is_watched=self.realtime.has_topic(presence_topic("anybody")),
            declared=DeclaredEvents(
                [*self.realtime.declared_events(), PRESENCE_CHANGED, LATE_REPLY],
                required=settings.require_declared_events,
            ),
        )
        self.messenger = self.cluster.messenger
        self.revocations = self.cluster.revocations
        self.presence = self.cluster.presence
        self.index = self.cluster.index
        self._still_allowed = still_allowed
        self.broadcasts = BroadcastService(
            self.database, self.cluster.pipeline, self.messenger, settings
        )

        self.allowed_origins = Origins(settings.allowed_origins).allowed
        self.verifier = TokenVerifier(settings)
        self.tickets = Tickets(self.cluster.pipeline, settings)
        self.sessions = SessionStore(self.cluster.pipeline, settings)
        self.session_cookie = SessionCookie(settings)
        self.identity_provider = identity_provider.embedded(settings)
        self.sign_ins: SignIns | None = None
        if settings.oidc_issuer is not None:
            self.sign_ins = SignIns(
                settings,
                self.cluster.pipeline,
                self.sessions,
                self._end_refused_session,
                authorize,
                self.identity_provider.transport() if self.identity_provider else None,
            )
        self.access_token = (
            no_access_token if self.sign_ins is None else self.sign_ins.access_tokens.of
        )
        self.revocations.sessions = self.sessions
        self.authenticator = Authenticator(
            settings, self.verifier, self.tickets, self.sessions, self.revocations
        )

        self.broker = broker or MemoryBroker()
        self.mesh: MeshClient = connect_mesh(settings, self.metrics, broker=self.broker)
        self._providers = dict(provide or {})
        self._provided: dict[type[Any], Any] = {}
        dependencies = HandlerDependencies(
            self.messenger,
            self.mesh,
            self.presence,
            self.database,
            settings,
            self.metrics,
            self.access_token,
            self._provided,
        )
        self.realtime.check_injection(dependencies.types | self._providers.keys())
        self.dispatcher = Dispatcher(self.realtime, dependencies)
        join_mesh(self.realtime, dependencies, self._redis_error)
        if settings.amqp_url == "memory://":
            for stand_in in stand_ins:
                service = stand_in(self.mesh.publish)
                if service.name == settings.app_name:
                    raise ValueError(
                        f"APP_NAME={settings.app_name} is also the name of a stand-in: each would "
                        "get a part of the other's calls"
                    )
                self.broker.serve(service)

        self.allowances = TokenBuckets(
            settings.max_messages_per_minute / 60, settings.max_message_burst
        )
        self.handshake_limit = HandshakeLimit(settings)
        self.handlers = HandlerManager(
            HandlerContext(
                instance_id=self.cluster.id,
                registry=self.cluster.registry,
                subscriptions=self.cluster.subscriptions,
                dispatcher=self.dispatcher,
                broadcasts=self.broadcasts,
                verify=self.authenticator.verify,
                revocations=self.revocations,
                allowances=self.allowances,
                topic_limit=TopicLimit(settings, self.cluster.registry),
                settings=settings,
                metrics=self.metrics,
            )
        )
        self.revocations.on_revoked = self.handlers.close_revoked
        self.draining = Draining(self.handlers, self.cluster.registry, settings.drain_seconds)
        self.background = ServiceTasks()

    def install(self, app: FastAPI) -> None:
        """Add to an app what the engine's routes need: error handlers, CORS, safe headers, the
        limit of request bodies, `/docs`, `/asyncapi.json` and, in development, the page at `/`.
        `documents` is available after this."""
        app.state.bff = self
        app.root_path = self.settings.root_path or app.root_path
        api_docs.install(app, self.settings)
        self.documents = Documents(app, self.realtime, self.settings)
        self.documents.install()
        app.max_body_size = self.settings.max_body_bytes
        problems.install(app)
        allowed = Origins(self.settings.allowed_origins).allowed
        http_headers.install(app, allowed, lambda: self.draining.begun)
        if self.settings.development:
            app.include_router(page.router(self.settings))
        if self.identity_provider is not None:
            app.include_router(self.identity_provider.router())

    def provided(self, kind: type[T]) -> T:
        """The resource that `provide` declares for this type.

        Raises:
            LookupError: `provide` does not declare it, or the app has not started.
        """
        if isinstance(self.settings, kind):
            return self.settings
        try:
            resource: T = self._provided[kind]
        except KeyError:
            raise LookupError(f"{kind.__name__} is not provided (yet)") from None
        return resource

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Start all parts, and stop them in reverse order, also after an error. The app starts even
        if Redis, RabbitMQ or the database is unavailable."""
        async with AsyncExitStack() as resources:
            resources.push_async_callback(self.database.close)
            resources.push_async_callback(self.redis.aclose)
            resources.push_async_callback(self.cluster.pipeline.close)
            if self.sign_ins is not None:
                resources.push_async_callback(self.sign_ins.close)
            resources.push_async_callback(self.verifier.tokens.close)
            if self.settings.environment != "production":
                await self._migrate()
            for kind, provider in self._providers.items():
                self._provided[kind] = await resources.enter_async_context(provider(self))
            resources.callback(self._provided.clear)
            resources.push_async_callback(self._stop)
            await self._start()
            with drain_before_shutdown(self.draining):
                yield

    async def _migrate(self) -> None:
        try:
            newer = await migrate.upgrade(self.settings)
        except database.UNAVAILABLE as error:
            logger.warning(
                "migrations not applied: database unavailable", extra={"reason": why(error)}
            )
            return
        if newer:
            logger.warning("migrations not applied: newer schema", extra={"reason": newer})

    async def _end_refused_session(self, caller: Caller) -> None:
        """End a session for which the identity provider has refused a refresh."""
        await self.revocations.revoke_session(caller.session_id)
        self.audit.record(
            "provider_logout",
            user=caller.user_id,
            session=caller.session_id,
            reason="refresh refused",
        )

    def _redis_error(self) -> str:
        error = self.index.lease_error
        return error and f"Redis: {error}"

    async def _start(self) -> None:
        cluster = self.cluster
        try:
            await cluster.index.renew()
        except UNAVAILABLE as error:
            logger.warning("no lease yet: Redis unavailable", extra={"reason": why(error)})
        await self.mesh.start()
        self.background.start("audit", self.audit.run())
        self.background.start("pubsub_listener", cluster.pubsub_listener.run())
        self.background.start("stream_hub", cluster.stream_hub.run())
        self.background.start("revocations", cluster.revocations.run())
        if self.sign_ins is not None:
            check = SessionCheck(self.handlers, self.sessions)
            self.background.start("session_check", check.run())
        if self._still_allowed is not None:
            users = UserCheck(
                self._still_allowed, self.handlers, self.revocations, self.audit, self.settings
            )
            self.background.start("user_check", users.run())
        self.background.start("index", cluster.index.run())
        self.background.start("presence", cluster.presence.run())
        names = EventHandlerNames(cluster.pipeline, cluster.context.keys)
        self.background.start("event_handler_names", names.run(self.realtime.event_handlers))
        try:
            async with asyncio.timeout(_PUBSUB_SECONDS):
                await cluster.pubsub_listener.wait_until_subscribed()
        except TimeoutError:
            logger.warning(
                "pub/sub not subscribed yet", extra={"reason": cluster.pubsub_listener.error}
            )

    async def _stop(self) -> None:
        await self.mesh.stop()
        await self.dispatcher.stop()
        await self.audit.flush()
        await self.background.stop()
        await self.cluster.stop()
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self.cluster.index.release()
        except UNAVAILABLE as error:
            logger.warning("could not release lease", extra={"reason": why(error)})

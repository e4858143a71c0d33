"""Brings a browser's call to whoever answers it, over sockets and HTTP alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel

from bff.auth.caller import Caller
from bff.auth.mesh_context import mesh_context
from bff.connections.connection import Connection
from bff.connections.messages import Call
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.realtime.exposure import Exposure
from bff.realtime.handlers import validate
from bff.realtime.injection import HandlerDependencies
from bff.realtime.limits import InFlight
from bff.realtime.mesh_proxy import MeshProxy
from bff.realtime.router import Method, RealtimeRouter, Topic, TopicPolicy
from bff.redis.client import UNAVAILABLE

logger = logging.getLogger(__name__)


class Dispatcher:
    """Finds the target of a call, checks that the caller may call it, and calls it.

    The browser is not trusted: what reaches the mesh is a service and a method that were exposed
    by name, and a `context` made here.
    """

    def __init__(self, router: RealtimeRouter, dependencies: HandlerDependencies) -> None:
        self._router = router
        self._forwarder = MeshProxy(dependencies)
        self._in_flight = InFlight(dependencies.settings.max_requests_per_user)
        self._topics = list(router.topics.values())
        self._dependencies = dependencies
        self._mesh = dependencies.mesh
        self._settings = dependencies.settings

    async def request(
        self, caller: Caller, call: Call, connection: Connection | None = None
    ) -> Any:
        """The result of a call, as JSON has it.

        Raises:
            Problem: with the code and the outcome that the browser gets.
        """
        target = self._target(caller, call)
        timeout = self._timeout(call, target)
        mesh = self._mesh_of(caller, connection)
        self._in_flight.enter(caller.user_id)
        try:
            if isinstance(target, Method):
                return await self._answer(target, caller, call, mesh, timeout)
            return await self._forwarder.request(target, caller, call, mesh, timeout, connection)
        finally:
            self._in_flight.leave(caller.user_id)

    async def command(
        self, caller: Caller, call: Call, connection: Connection | None = None
    ) -> None:
        """Hand over a call whose result nobody waits for; returns when it was accepted.

        Raises:
            Problem: it was refused.
        """
        target = self._target(caller, call)
        timeout = self._timeout(call, target)
        mesh = self._mesh_of(caller, connection)
        self._in_flight.enter(caller.user_id)
        try:
            if isinstance(target, Method):
                await self._answer(target, caller, call, mesh, timeout)
            else:
                await self._forwarder.command(target, caller, call, mesh, timeout)
        finally:
            self._in_flight.leave(caller.user_id)

    async def stop(self) -> None:
        """Finish what is left of calls that were given up."""
        await self._forwarder.stop()

    def _mesh_of(self, caller: Caller, connection: Connection | None) -> MeshClient:
        session_id = connection.id if connection is not None else ""
        return self._mesh.with_context(mesh_context(caller, self._settings, session_id))

    async def check_topics(self, caller: Caller, topics: Iterable[str]) -> None:
        """Go on only if the caller may subscribe to all of these.

        Raises:
            Problem: `not_found`, nobody offers such a topic; `forbidden`; or what the rule raised.
        """
        self._in_flight.enter(caller.user_id)
        try:
            for topic in topics:
                await self._check_topic(caller, topic)
        finally:
            self._in_flight.leave(caller.user_id)

    async def _check_topic(self, caller: Caller, topic: str) -> None:
        policy = self._policy(topic)
        if policy is None:
            raise Problem(Code.NOT_FOUND, f"No topic {topic} is offered")
        caller.require(*policy.scopes)
        mesh = self._mesh_of(caller, None)
        async with self._bounded(f"topic {topic}", self._settings.request_timeout_seconds):
            may = await policy.handler(
                self._dependencies.arguments(
                    {Topic: Topic(topic), Caller: caller, MeshClient: mesh}
                )
            )
        if may is not True:
            raise Problem(Code.FORBIDDEN, f"Topic {topic} is not for you")

    def out_of_scope(self, caller: Caller, topics: Iterable[str]) -> list[str]:
        """Of these topics those for which the caller has not the scopes, whatever rules say."""
        policies = ((topic, self._policy(topic)) for topic in topics)
        return [
            topic for topic, policy in policies if policy and not policy.scopes <= caller.scopes
        ]

    def _policy(self, topic: str) -> TopicPolicy | None:
        return next((policy for policy in self._topics if policy.matches(topic)), None)

    def _target(self, caller: Caller, call: Call) -> Exposure | Method:
        target = self._router.find(call.service, call.method)
        if target is None:
            raise Problem(Code.NOT_FOUND, f"{call.service}.{call.method} is not offered")
        caller.require(*target.scopes)
        return target

    def _timeout(self, call: Call, target: Exposure | Method) -> float:
        """The browser's time if it names one, within what the method and the settings allow."""
        limit = self._settings.max_request_timeout_seconds
        usual = self._settings.request_timeout_seconds
        if isinstance(target, Exposure) and target.timeout is not None:
            usual = limit = min(target.timeout, limit)
        return usual if call.timeout_ms is None else min(call.timeout_ms, limit * 1000) / 1000

    async def _answer(
        self, method: Method, caller: Caller, call: Call, mesh: MeshClient, timeout: float
    ) -> Any:
        params = validate(method.handler.params, call.params)
        async with self._bounded(f"{call.service}.{call.method}", timeout):
            result = await method.handler(
                self._dependencies.arguments({BaseModel: params, Caller: caller, MeshClient: mesh})
            )
        return result.model_dump(mode="json") if isinstance(result, BaseModel) else result

    @asynccontextmanager
    async def _bounded(self, what: str, timeout: float) -> AsyncIterator[None]:
        """A handler's time, and a `Problem` for what it met of Redis or the network."""
        try:
            async with asyncio.timeout(timeout) as deadline:
                yield
        except UNAVAILABLE as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN) from error
            logger.warning("%s: %s: %s", what, type(error).__name__, error)
            raise Problem(Code.SERVICE_UNAVAILABLE, outcome=Outcome.UNKNOWN) from error

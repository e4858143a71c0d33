"""Routes a browser's call to the method or mesh service that answers it, for WebSocket and HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel
from redis.exceptions import DataError

from bff.auth.caller import Caller
from bff.auth.mesh_context import mesh_context
from bff.connections.connection import Connection
from bff.connections.messages import Call
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.realtime.declarations import Method, Topic, TopicPolicy
from bff.realtime.exposure import Exposure
from bff.realtime.handlers import validate
from bff.realtime.injection import HandlerDependencies
from bff.realtime.limits import InFlight
from bff.realtime.mesh_proxy import MeshProxy
from bff.realtime.router import RealtimeRouter
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)


class Dispatcher:
    """Finds the target of a call, checks the caller's scopes, and calls the target.

    Browsers are not trusted: they reach only services and methods that are exposed by name, and
    the `context` that services get is made here.
    """

    def __init__(self, router: RealtimeRouter, dependencies: HandlerDependencies) -> None:
        self._router = router
        self._topic_policies = list(router.topic_policies.values())
        self._dependencies = dependencies
        self._mesh = dependencies.mesh
        self._mesh_proxy = MeshProxy(dependencies)
        self._settings = dependencies.settings
        self._in_flight = InFlight(dependencies.settings.max_requests_per_user)

    async def call(
        self,
        caller: Caller,
        call: Call,
        connection: Connection | None = None,
        *,
        command: bool = False,
    ) -> Any:
        """Run a request, or a command, and return its result in JSON types.

        A command to a mesh service returns None as soon as RabbitMQ has confirmed it. A method
        that is answered here runs to its end in both cases.

        Raises:
            Problem: with the code and the outcome that the browser gets.
        """
        target = self.check_call(caller, call.service, call.method)
        timeout = self._timeout(call, target)
        mesh = self._mesh_for(caller, connection)
        self._in_flight.enter(caller.user_id)
        try:
            if isinstance(target, Method):
                return await self._run_method(target, caller, call, mesh, timeout)
            return await self._mesh_proxy.call(
                target, caller, call, mesh, timeout, connection, command=command
            )
        finally:
            self._in_flight.leave(caller.user_id)

    def check_call(self, caller: Caller, service: str, method: str) -> Exposure | Method:
        """The target of a call.

        Raises:
            Problem: `not_found`, it is not exposed; `forbidden`, the caller lacks a scope.
        """
        target = self._router.find(service, method)
        if target is None:
            raise Problem(Code.NOT_FOUND, f"{service}.{method} is not exposed")
        caller.require(*target.scopes)
        return target

    async def stop(self) -> None:
        """Wait for work that outlives its call: late replies to store, services to notify of a
        cancellation.

        The mesh client must be stopped first, so that no call adds another.
        """
        await self._mesh_proxy.stop()

    async def check_topics(self, caller: Caller, topics: Iterable[str]) -> None:
        """Check that the caller may subscribe to all of these topics.

        Raises:
            Problem: `not_found` when no policy matches a topic; `forbidden`; or what the policy
                raised.
        """
        self._in_flight.enter(caller.user_id)
        try:
            for topic in topics:
                await self._check_topic(caller, topic)
        finally:
            self._in_flight.leave(caller.user_id)

    def topics_without_scope(self, caller: Caller, topics: Iterable[str]) -> list[str]:
        """The topics for which the caller lacks a scope. Calls no policy."""
        policies = ((topic, self._policy(topic)) for topic in topics)
        return [
            topic for topic, policy in policies if policy and not policy.scopes <= caller.scopes
        ]

    async def _check_topic(self, caller: Caller, topic: str) -> None:
        policy = self._policy(topic)
        if policy is None:
            raise Problem(Code.NOT_FOUND, f"There is no topic {topic}")
        caller.require(*policy.scopes)
        mesh = self._mesh_for(caller, None)
        async with self._bounded(f"topic {topic}", self._settings.request_timeout_seconds):
            allowed = await policy.handler(
                self._dependencies.arguments(
                    {Topic: Topic(topic), Caller: caller, MeshClient: mesh}
                )
            )
        if allowed is not True:
            raise Problem(Code.FORBIDDEN, f"You may not subscribe to topic {topic}")

    @property
    def topic_patterns(self) -> list[str]:
        """The patterns of all topics that exist."""
        return [policy.pattern for policy in self._topic_policies]

    def _policy(self, topic: str) -> TopicPolicy | None:
        return next((policy for policy in self._topic_policies if policy.matches(topic)), None)

    def _timeout(self, call: Call, target: Exposure | Method) -> float:
        """Seconds: the browser's `timeout_ms`, limited by the timeout of the exposed method and by
        the settings."""
        limit = self._settings.max_request_timeout_seconds
        default = self._settings.request_timeout_seconds
        if isinstance(target, Exposure) and target.timeout is not None:
            default = limit = min(target.timeout, limit)
        return default if call.timeout_ms is None else min(call.timeout_ms, limit * 1000) / 1000

    def _mesh_for(self, caller: Caller, connection: Connection | None) -> MeshClient:
        connection_id = connection.id if connection is not None else ""
        return self._mesh.with_context(mesh_context(caller, self._settings, connection_id))

    async def _run_method(
        self, method: Method, caller: Caller, call: Call, mesh: MeshClient, timeout: float
    ) -> Any:
        params = validate(method.handler.params, call.params)
        async with self._bounded(f"{call.service}.{call.method}", timeout):
            result = await method.handler(
                self._dependencies.arguments({BaseModel: params, Caller: caller, MeshClient: mesh})
            )
        return _dumped(call, result) if isinstance(result, BaseModel) else result

    @asynccontextmanager
    async def _bounded(self, handler: str, timeout: float) -> AsyncIterator[None]:
        """Limit a handler's time, and turn errors of Redis and the network into a `Problem`."""
        try:
            async with asyncio.timeout(timeout) as deadline:
                yield
        except DataError:
            raise  # Redis is available, but cannot store a value of the handler
        except UNAVAILABLE as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN) from error
            logger.warning(
                "handler failed: Redis or network unavailable",
                extra={"handler": handler, "reason": why(error)},
            )
            raise Problem(Code.SERVICE_UNAVAILABLE, outcome=Outcome.UNKNOWN) from error


def _dumped(call: Call, result: BaseModel) -> Any:
    try:
        return result.model_dump(mode="json", by_alias=True)
    except ValueError as error:  # a value without a JSON type, or half a surrogate pair
        logger.exception("result is not JSON", extra={"handler": f"{call.service}.{call.method}"})
        raise Problem(Code.SERVICE_ERROR, outcome=Outcome.DONE) from error

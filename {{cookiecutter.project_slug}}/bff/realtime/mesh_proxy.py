"""Calls of browsers to the mesh, also those whose browser has gone."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

from pydantic import BaseModel

from bff.auth.caller import Caller
from bff.backoff import backoff_delays
from bff.connections.connection import Connection
from bff.connections.frames import encode
from bff.connections.messages import Call
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.realtime.exposure import Exposure
from bff.realtime.handlers import validate
from bff.realtime.injection import HandlerDependencies
from bff.redis.client import UNAVAILABLE

TOPIC = "result"
"""Of the event that holds an answer which came when nobody waited any more."""
MAX_FOLLOW_UPS = 1_000
"""Things still to be done for calls that were given up; more are dropped."""
_TELLING = 5.0
"""Seconds for telling a service that a call was given up."""
_ENDING = 5.0

logger = logging.getLogger(__name__)


class MeshProxy:
    """Hands exposed calls to the mesh, on the terms of their exposure."""

    def __init__(self, dependencies: HandlerDependencies) -> None:
        self._dependencies = dependencies
        self._mesh = dependencies.mesh
        self._messenger = dependencies.messenger
        self._settings = dependencies.settings
        self._tasks: set[asyncio.Task[None]] = set()

    async def request(
        self,
        exposure: Exposure,
        caller: Caller,
        call: Call,
        mesh: MeshClient,
        timeout: float,
        connection: Connection | None = None,
    ) -> Any:
        """The result of a call.

        Raises:
            Problem: what the browser is told.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        params = await self._admit(exposure, caller, call, mesh, deadline)
        trace_id = secrets.token_hex(16)
        kept = exposure.keep_result and call.trace_id is not None
        late = LateReply(self, caller.user_id, call.trace_id or "", trace_id) if kept else None
        try:
            return await mesh.request(
                call.service,
                call.method,
                params,
                timeout=deadline - asyncio.get_running_loop().time(),
                trace_id=trace_id,
                encrypted=exposure.encrypted,
                late=late,
            )
        except asyncio.CancelledError:
            gone = connection is not None and connection.closing is not None
            if late is not None and gone:
                raise
            if late is not None:
                late.unwanted = True
            if exposure.cancel_method is not None:
                self._do(self._tell(exposure.cancel_method, caller, call.service, trace_id))
            raise

    async def command(
        self, exposure: Exposure, caller: Caller, call: Call, mesh: MeshClient, timeout: float
    ) -> None:
        """Hand over a call whose result nobody waits for.

        Raises:
            Problem: it was refused.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        params = await self._admit(exposure, caller, call, mesh, deadline)
        await mesh.command(
            call.service,
            call.method,
            params,
            timeout=deadline - asyncio.get_running_loop().time(),
            encrypted=exposure.encrypted,
        )

    async def stop(self) -> None:
        """Finish what is still to be done, within a few seconds. The mesh has ended before."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=_ENDING)
        for task in self._tasks:
            task.cancel()

    async def _admit(
        self, exposure: Exposure, caller: Caller, call: Call, mesh: MeshClient, deadline: float
    ) -> dict[str, Any]:
        """The parameters to send, if the call passes its model and its check."""
        params = validate(exposure.params, call.params)
        if exposure.check is not None:
            given = self._dependencies.arguments(
                {BaseModel: params, Caller: caller, MeshClient: mesh, Call: call}
            )
            try:
                async with asyncio.timeout_at(deadline):
                    may = await exposure.check(given)
            except TimeoutError:
                raise Problem(Code.TIMEOUT) from None
            except UNAVAILABLE as error:
                logger.warning("check of %s.%s: %s", call.service, call.method, error)
                raise Problem(Code.SERVICE_UNAVAILABLE) from error
            if may is not True:
                raise Problem(Code.FORBIDDEN)
        return call.params if params is None else params.model_dump(mode="json", by_alias=True)

    # Afterwards

    def keep(self, user_id: str, browser_id: str, trace_id: str, event: dict[str, Any]) -> None:
        """Put a late answer into the user's stream."""
        self._do(self._keep(user_id, browser_id, trace_id, event))

    async def _keep(
        self, user_id: str, browser_id: str, trace_id: str, event: dict[str, Any]
    ) -> None:
        if len(encode(event)) > self._settings.max_queue_bytes:
            problem = Problem(Code.SERVICE_ERROR, "The answer is too large", outcome=Outcome.DONE)
            event = {"result": None, "error": problem.as_error()}
        event = {"trace_id": browser_id, **event}
        try:
            async with asyncio.timeout(self._settings.keep_result_seconds):
                for pause in backoff_delays(0.2, 5):
                    try:
                        key = f"result/{trace_id}"
                        await self._messenger.to_user(user_id, TOPIC, event, idempotency_key=key)
                        return
                    except UNAVAILABLE as error:
                        logger.warning("a late result waits for Redis: %s", error)
                        await asyncio.sleep(pause)
        except TimeoutError:
            logger.error("a late result is lost (trace %s): Redis is away", trace_id)

    async def _tell(self, method: str, caller: Caller, service: str, trace_id: str) -> None:
        """Tell a service that nobody waits any more: without a token, and it may not arrive."""
        try:
            await self._mesh.command(
                service,
                method,
                {"trace_id": trace_id},
                context={"user_id": caller.user_id},
                timeout=_TELLING,
            )
        except Problem as problem:
            logger.info("%s.%s was not told of %s: %s", service, method, trace_id, problem)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_FOLLOW_UPS:
            logger.error("too much is left to do for calls that were given up: one is dropped")
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("what was left of a call failed", exc_info=task.exception())


class LateReply:
    """Takes the answer that came too late to its user's stream, unless it is not wanted."""

    __slots__ = ("_browser_id", "_forwarder", "_trace_id", "_user_id", "unwanted")

    def __init__(self, forwarder: MeshProxy, user_id: str, browser_id: str, trace_id: str) -> None:
        self._forwarder = forwarder
        self._user_id = user_id
        self._browser_id = browser_id
        self._trace_id = trace_id
        self.unwanted = False

    def __call__(self, result: Any, problem: Problem | None) -> None:
        if not self.unwanted:
            event = {"result": result, "error": problem and problem.as_error()}
            self._forwarder.keep(self._user_id, self._browser_id, self._trace_id, event)

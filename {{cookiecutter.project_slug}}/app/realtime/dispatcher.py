"""Brings a browser's call to whoever answers it, over sockets and HTTP alike."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pydantic import BaseModel

from app.auth.caller import Caller
from app.auth.identity import mesh_context
from app.cluster.messenger import Messenger
from app.cluster.redis import UNAVAILABLE
from app.connections.messages import Call
from app.errors import Code, Outcome, Problem
from app.mesh.client import MeshClient
from app.realtime.handlers import validate
from app.realtime.router import Exposure, Method, RealtimeRouter
from app.settings import Settings

logger = logging.getLogger(__name__)


class Dispatcher:
    """Finds the target of a call, checks that the caller may call it, and calls it.

    The browser is not trusted: what reaches the mesh is a service and a method that were exposed
    by name, and a `context` made here.
    """

    def __init__(
        self, router: RealtimeRouter, mesh: MeshClient, messenger: Messenger, settings: Settings
    ) -> None:
        self._targets = router.targets
        self._mesh = mesh
        self._messenger = messenger
        self._settings = settings

    async def request(self, caller: Caller, call: Call, session_id: str = "") -> Any:
        """The result of a call, as JSON has it.

        Raises:
            Problem: with the code and the outcome that the browser gets.
        """
        timeout = self._timeout(call)
        target = self._target(caller, call)
        mesh = self._mesh.with_context(mesh_context(caller, self._settings, session_id))
        if isinstance(target, Method):
            return await self._answer(target, caller, call, mesh, timeout)
        return await mesh.request(call.service, call.method, call.params, timeout=timeout)

    async def command(self, caller: Caller, call: Call, session_id: str = "") -> None:
        """Hand over a call whose result nobody waits for; returns when it was accepted.

        Raises:
            Problem: it was refused.
        """
        timeout = self._timeout(call)
        target = self._target(caller, call)
        mesh = self._mesh.with_context(mesh_context(caller, self._settings, session_id))
        if isinstance(target, Method):
            await self._answer(target, caller, call, mesh, timeout)
        else:
            await mesh.command(call.service, call.method, call.params, timeout=timeout)

    def _target(self, caller: Caller, call: Call) -> Exposure | Method:
        name = f"{call.service}.{call.method}"
        target = self._targets.get(name)
        if target is None:
            raise Problem(Code.NOT_FOUND, f"{name} is not offered")
        caller.require(*target.scopes)
        return target

    def _timeout(self, call: Call) -> float:
        if call.timeout_ms is None:
            return self._settings.request_timeout
        return min(call.timeout_ms / 1000, self._settings.request_timeout_max)

    async def _answer(
        self, method: Method, caller: Caller, call: Call, mesh: MeshClient, timeout: float
    ) -> Any:
        params = validate(method.handler.params, call.params)
        try:
            async with asyncio.timeout(timeout) as deadline:
                result = await method.handler(
                    {
                        BaseModel: params,
                        Caller: caller,
                        Messenger: self._messenger,
                        MeshClient: mesh,
                    }
                )
        except UNAVAILABLE as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN) from error
            logger.warning("%s.%s: %s: %s", call.service, call.method, type(error).__name__, error)
            raise Problem(Code.SERVICE_UNAVAILABLE, outcome=Outcome.UNKNOWN) from error
        return result.model_dump(mode="json") if isinstance(result, BaseModel) else result

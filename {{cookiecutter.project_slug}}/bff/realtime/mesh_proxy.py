"""Forwards calls of browsers to mesh services."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from pydantic import BaseModel

from bff.auth.caller import Caller
from bff.connections.connection import Connection
from bff.connections.messages import Call
from bff.errors import Code, Problem
from bff.mesh.client import MeshClient
from bff.realtime.exposure import Exposure
from bff.realtime.follow_ups import FollowUps, LateReply
from bff.realtime.handlers import validate
from bff.realtime.injection import HandlerDependencies
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)


class MeshProxy:
    """Forwards a call to its mesh service, with the options of its exposure."""

    def __init__(self, dependencies: HandlerDependencies) -> None:
        self._dependencies = dependencies
        self._follow_ups = FollowUps(dependencies)

    async def call(
        self,
        exposure: Exposure,
        caller: Caller,
        call: Call,
        mesh: MeshClient,
        timeout: float,
        connection: Connection | None = None,
        *,
        command: bool = False,
    ) -> Any:
        """Return the result, or None when RabbitMQ has confirmed a command.

        `timeout`, in seconds, includes the check. If a request is cancelled while `connection` is
        open, the browser cancelled it: a late reply is discarded, and the service's cancel method
        is called. If `connection` is closing, the browser has left: a late reply is kept if the
        exposure has `keep_result` and the call a trace id; otherwise the cancel method, if the
        exposure has one, is called. Without a connection (an HTTP request) it is as with an open
        one.

        Raises:
            Problem: the error that the browser gets.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        params = await self._checked_params(exposure, caller, call, mesh, deadline)
        if command:
            await mesh.command(
                call.service,
                call.method,
                params,
                timeout=deadline - clock(),
                encrypted=exposure.encrypted,
            )
            return None
        trace_id = secrets.token_hex(16)  # the browser's need not be unique
        late = None
        if exposure.keep_result and call.trace_id is not None:
            late = LateReply(self._follow_ups, caller.user_id, call.trace_id, trace_id)
        try:
            return await mesh.request(
                call.service,
                call.method,
                params,
                timeout=deadline - clock(),
                trace_id=trace_id,
                encrypted=exposure.encrypted,
                late=late,
            )
        except asyncio.CancelledError:
            browser_gone = connection is not None and connection.close_code is not None
            if late is None or not browser_gone:
                self._cancelled(exposure, caller, call.service, trace_id, late)
            raise

    async def stop(self) -> None:
        """Wait until late replies are stored. Stop the mesh client first: then all calls have
        ended, and no more come."""
        await self._follow_ups.stop()

    def _cancelled(
        self,
        exposure: Exposure,
        caller: Caller,
        service: str,
        trace_id: str,
        late: LateReply | None,
    ) -> None:
        if late is not None:
            late.discard = True
        if exposure.cancel_method is not None:
            self._follow_ups.cancelled(service, exposure.cancel_method, caller.user_id, trace_id)

    async def _checked_params(
        self, exposure: Exposure, caller: Caller, call: Call, mesh: MeshClient, deadline: float
    ) -> dict[str, Any]:
        """The parameters to send, once the exposure's model and its check accept the call."""
        params = validate(exposure.params, call.params)
        if exposure.check is not None:
            arguments = self._dependencies.arguments(
                {BaseModel: params, Caller: caller, MeshClient: mesh, Call: call}
            )
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    allowed = await exposure.check(arguments)
            except UNAVAILABLE as error:
                if isinstance(error, TimeoutError) and limit.expired():
                    raise Problem(Code.TIMEOUT) from None
                logger.warning(
                    "check of exposed method failed: Redis or network unavailable",
                    extra={"service": call.service, "method": call.method, "reason": why(error)},
                )
                raise Problem(Code.SERVICE_UNAVAILABLE) from error
            if allowed is not True:
                raise Problem(Code.FORBIDDEN)
        return call.params if params is None else params.model_dump(mode="json", by_alias=True)

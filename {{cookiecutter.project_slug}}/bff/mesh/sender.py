"""Sends the messages of a client, within their deadline, and waits for replies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from bff.errors import Code, Outcome, Problem
from bff.mesh.codec import Codec
from bff.mesh.describe import DescriptionCache
from bff.mesh.messages import Message, Reply
from bff.mesh.pending_requests import OnLate, PendingRequests
from bff.mesh.transport import ConnectionLost, MeshTransport, Nacked, Unroutable
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class MessageSender:
    """Sends requests, commands and events.

    Its methods raise only `Problem`, with the outcome of the message.
    """

    def __init__(
        self,
        transport: MeshTransport,
        codec: Codec,
        pending_requests: PendingRequests,
        descriptions: DescriptionCache,
        metrics: Metrics,
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._pending_requests = pending_requests
        self._descriptions = descriptions
        self._counters = cache(metrics.mesh_calls.labels)
        self._timers = cache(metrics.mesh_seconds.labels)

    async def call(
        self,
        message: Message,
        reply: asyncio.Future[Reply | None] | None,
        encrypted: bool,
    ) -> Any:
        """Send a request and return its result; or a command (`reply` is None) and return None.

        Counted in the metrics; requests are timed too.

        Raises:
            Problem: the error of the service, or why there is no reply.
        """
        started = asyncio.get_running_loop().time()
        outcome = Code.INTERNAL.value
        try:
            if encrypted:
                self._pending_requests.acquire_slot(message)
                try:
                    await self._encrypt(message)
                finally:
                    self._pending_requests.release_slot(message)
            sent_at = time.monotonic() if encrypted else 0.0
            answer = await self.send(message, reply)
            if encrypted and answer is not None:
                # The service could decrypt the request: its key was valid.
                self._descriptions.prove_key(message.routing_key, sent_at)
            if answer is not None and answer.error is not None:
                raise self._codec.problem(answer.error, message)
            outcome = "ok"
            return None if answer is None else answer.result
        except Problem as problem:
            outcome = problem.code.value
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            label = self._pending_requests.label(message.routing_key)
            self._counters(label, outcome).inc()
            if reply is not None:
                self._timers(label).observe(asyncio.get_running_loop().time() - started)

    async def send(
        self, message: Message, reply: asyncio.Future[Reply | None] | None
    ) -> Reply | None:
        """Send a message and, for a request, wait for its reply.

        Raises:
            Problem: the message was not sent, or there is no reply.
        """
        if message.deadline <= asyncio.get_running_loop().time():
            raise Problem(Code.TIMEOUT)
        self._pending_requests.acquire_slot(message)
        try:
            async with asyncio.timeout_at(message.deadline):
                await self._transport.publish(message)
                if message.is_call:
                    self._pending_requests.name_in_metrics(message.routing_key)
                if reply is None:
                    return None
                answer = await reply
                self._pending_requests.stop_waiting(message)
        except Unroutable:
            raise Problem(Code.SERVICE_UNAVAILABLE) from None
        except (TimeoutError, ConnectionLost, Nacked) as error:
            # The reply may have arrived at the same moment as the error.
            answer = self._pending_requests.take_reply(message)
            if answer is None:
                raise self._failed(message, error) from None
        finally:
            self._pending_requests.release_slot(message)
        if answer is None:  # the reply queue was lost
            raise Problem(Code.MESH_UNAVAILABLE, outcome=Outcome.UNKNOWN)
        return answer

    def _failed(self, message: Message, error: Exception) -> Problem:
        """Why there is no reply. A message that was sent may have arrived."""
        outcome = Outcome.UNKNOWN if message.sent else Outcome.NOT_SENT
        if isinstance(error, Nacked):
            return Problem(Code.SERVICE_UNAVAILABLE, outcome=outcome)
        if isinstance(error, TimeoutError) and message.sent:
            if message.reply_key is not None:  # perhaps encrypted for an old key
                self._descriptions.forget(message.routing_key)
            return Problem(Code.TIMEOUT, outcome=outcome)
        return Problem(Code.MESH_UNAVAILABLE, outcome=outcome)

    def on_late(self, message: Message, late: Callable[[Any, Problem | None], None]) -> OnLate:
        """A callback for a late reply that calls `late(result, None)` or `late(None, problem)`.

        Exceptions of `late` are logged and not raised.
        """

        def tell(answer: Reply | Problem) -> None:
            try:
                if isinstance(answer, Problem):
                    late(None, answer)
                elif answer.error is not None:
                    late(None, self._codec.problem(answer.error, message))
                else:
                    late(answer.result, None)
            except Exception:
                logger.exception(
                    "callback for a late reply failed",
                    extra={"service": message.routing_key, "trace_id": message.trace_id},
                )

        return tell

    async def _encrypt(self, message: Message) -> None:
        service = message.routing_key
        try:
            async with asyncio.timeout_at(message.deadline):
                key = await self._descriptions.key(service)
        except TimeoutError:
            raise Problem(Code.TIMEOUT) from None
        except Problem as problem:
            # The call itself was not sent, even if the request for the key was.
            raise Problem(problem.code, problem.description) from problem
        if key is None:
            logger.warning(
                "encrypted call refused: service has no public key",
                extra={"service": service, "trace_id": message.trace_id},
            )
            raise Problem(Code.SERVICE_ERROR)
        message.encrypt_for(key)

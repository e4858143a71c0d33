"""Calls to the services of the mesh, each with one deadline, and the events that come from it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any, Self

from bff.errors import Code, Outcome, Problem
from bff.mesh import describe, nuropb
from bff.mesh.codec import Codec
from bff.mesh.describe import Descriptions, ServiceDescription
from bff.mesh.events import EventHandler
from bff.mesh.memory import MemoryBroker, MemoryTransport
from bff.mesh.messages import Kind, Message, Reply
from bff.mesh.pending_calls import Late, PendingCalls
from bff.mesh.rabbitmq.transport import AmqpTransport
from bff.mesh.receiver import MessageReceiver
from bff.mesh.service import Publish, Service
from bff.mesh.transport import ConnectionLost, MeshStatus, MeshTransport, Unroutable
from bff.settings import MeshSettings
from bff.telemetry import logs
from bff.telemetry.metrics import Metrics

MAX_TOPIC_BYTES = 255

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,127}")

logger = logging.getLogger(__name__)


class MeshClient:
    """The mesh as the rest of the app sees it."""

    def __init__(
        self,
        settings: MeshSettings,
        metrics: Metrics,
        transport: MeshTransport,
        *,
        codec: Codec = nuropb,
        name: str = "mesh",
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._transport = transport
        self._format = codec
        self._name = name
        self._routes: dict[str, MeshClient] = {}
        self._event_handlers: list[EventHandler] = []
        self.services: list[Service] = []
        """What is answered here."""
        self._pending_calls = PendingCalls(settings, metrics)
        self._counters = cache(metrics.mesh_calls.labels)
        self._timers = cache(metrics.mesh_seconds.labels)
        self._descriptions = Descriptions(self._ask, settings.description_cache_seconds)
        self._context: dict[str, Any] = {}

    def with_context(self, context: dict[str, Any]) -> Self:
        """The same client, whose calls carry this context: in whose name they are made."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _context=context)
        return twin

    def route(self, services: Iterable[str], to: MeshClient) -> None:
        """Have another client call these services: on another vhost, or in another format.

        It starts and stops with this one. Whoever calls need not know.
        """
        self._routes.update(dict.fromkeys(services, to))

    def add_event_handler(self, event_handler: EventHandler) -> None:
        """Take in an event rule, before `start`.

        Raises:
            ValueError: another rule has that name.
        """
        if any(event_handler.name == other.name for other in self._event_handlers):
            raise ValueError(f"two event rules are named {event_handler.name!r}")
        self._event_handlers.append(event_handler)

    def add_service(self, service: Service) -> None:
        """Answer the calls of a service, from `start` on.

        Raises:
            ValueError: there is one of that name.
        """
        if any(service.name == other.name for other in self.services):
            raise ValueError(f"two services are named {service.name!r}")
        self.services.append(service)

    async def serve(self, service: Service) -> None:
        """Be that service, until cancelled or told to end by SIGTERM: a program of its own."""
        told_to_end = asyncio.Event()
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
        self.add_service(service)
        await self.start()
        try:
            await told_to_end.wait()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Begin to connect. Works without a broker too: `status` tells when there is one."""
        receiver = MessageReceiver(
            self._pending_calls, self._format, self._metrics, self._note_status
        )
        await self._transport.start(receiver, self._event_handlers, self.services)
        for other in set(self._routes.values()):
            await other.start()

    async def stop(self) -> None:
        """Disconnect; requests without an answer fail."""
        for other in set(self._routes.values()):
            await other.stop()
        await self._transport.stop()

    @property
    def status(self) -> MeshStatus:
        """Whether calls can be made now, those by way of other clients too."""
        for other in self._routes.values():
            if not other.status.connected:
                return MeshStatus(False, f"{other._name}: {other.status.reason}")
        return self._transport.status

    def _note_status(self) -> None:
        connected = self._transport.status.connected
        self._metrics.mesh_connected.labels(self._name).set(connected)

    async def request(
        self,
        service: str,
        method: str,
        params: dict[str, Any],
        *,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        trace_id: str | None = None,
        encrypted: bool = False,
        late: Callable[[Any, Problem | None], None] | None = None,
    ) -> Any:
        """Call a method and give back its result.

        `timeout` in seconds covers everything, waiting for a connection too; it is cut to
        `max_request_timeout_seconds`. `encrypted` lets nobody but the service read the call, and
        nobody but us the reply. When the wait ends, by its deadline or by cancellation, and the
        reply may still come, `late` is called once: with the result, or with the problem.

        Raises:
            Problem: the service's error, or what kept the call from being answered.
        """
        via = self._via(service)
        message = via._call(Kind.REQUEST, service, method, params, context, timeout, trace_id)
        reply = via._pending_calls.expect(message)
        try:
            return await via._measured(message, reply, encrypted)
        finally:
            via._pending_calls.end(message, late and via._late(message, late))

    async def command(
        self,
        service: str,
        method: str,
        params: dict[str, Any],
        *,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        trace_id: str | None = None,
        encrypted: bool = False,
    ) -> None:
        """Call a method that answers nothing; returns when the broker has the command.

        A command that no service instance has begun within `timeout` seconds is dropped.

        Raises:
            Problem: the command was not sent, or it is not known whether it was.
        """
        via = self._via(service)
        message = via._call(Kind.COMMAND, service, method, params, context, timeout, trace_id)
        await via._measured(message, None, encrypted)

    async def describe(self, service: str) -> ServiceDescription:
        """What a service says of itself, at most `description_cache_seconds` old.

        Raises:
            Problem: it does not say.
        """
        return await self._via(service)._descriptions.of(service)

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        context: dict[str, Any] | None = None,
        target: list[str] | None = None,
        trace_id: str | None = None,
    ) -> None:
        """Publish an event; returns when the broker has it, whether or not anyone listens.

        Raises:
            Problem: the event was not sent, or it is not known whether it was.
        """
        if not 0 < len(topic.encode()) <= MAX_TOPIC_BYTES:
            raise Problem(Code.INVALID_PARAMS, "Not a topic")
        deadline = self._deadline(None)
        trace_id = trace_id or secrets.token_hex(16)
        try:
            message = self._format.event(topic, event, context or {}, target, trace_id, deadline)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The event is not JSON") from error
        await self._exchange(message, None)

    def _via(self, service: str) -> MeshClient:
        other = self._routes.get(service)
        return self if other is None else other.with_context(self._context)

    def _call(
        self,
        kind: Kind,
        service: str,
        method: str,
        params: dict[str, Any],
        context: dict[str, Any] | None,
        timeout: float | None,
        trace_id: str | None,
    ) -> Message:
        if not _SERVICE.fullmatch(service):
            raise Problem(Code.INVALID_PARAMS, "Not a service name")
        if not _METHOD.fullmatch(method):
            raise Problem(Code.INVALID_PARAMS, "Not a method name")
        deadline = self._deadline(timeout)
        trace_id = trace_id or secrets.token_hex(16)
        try:
            context = {**self._context, **(context or {}), "trace_id": trace_id}
            message = self._format.call(kind, service, method, params, context, trace_id, deadline)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The parameters are not JSON") from error
        message.method = method
        return message

    def _deadline(self, timeout: float | None) -> float:
        seconds = self._settings.request_timeout_seconds if timeout is None else timeout
        limited = min(seconds, self._settings.max_request_timeout_seconds)
        return asyncio.get_running_loop().time() + limited

    async def _measured(
        self,
        message: Message,
        reply: asyncio.Future[Reply | None] | None,
        encrypted: bool,
    ) -> Any:
        started = asyncio.get_running_loop().time()
        outcome = "cancelled"
        try:
            if encrypted:
                self._pending_calls.enter(message)
                try:
                    await self._seal(message)
                finally:
                    self._pending_calls.leave(message)
            answer = await self._exchange(message, reply)
            if answer is not None and answer.error is not None:
                raise self._format.problem(answer.error, message)
            outcome = "ok"
            return answer and answer.result
        except Problem as problem:
            outcome = problem.code.value
            raise
        finally:
            label = self._pending_calls.label(message.routing_key)
            self._counters(label, outcome).inc()
            if reply is not None:
                self._timers(label).observe(asyncio.get_running_loop().time() - started)

    async def _exchange(
        self, message: Message, reply: asyncio.Future[Reply | None] | None
    ) -> Reply | None:
        """Send a message and, for a request, wait for its reply; all that fails is a `Problem`."""
        if message.deadline <= asyncio.get_running_loop().time():
            raise Problem(Code.TIMEOUT)
        self._pending_calls.enter(message)
        try:
            async with asyncio.timeout_at(message.deadline):
                await self._transport.publish(message)
                if message.is_call:
                    self._pending_calls.reached.add(message.routing_key)
                if reply is None:
                    return None
                answer = await reply
                self._pending_calls.end(message)
        except TimeoutError:
            if message.key is not None:
                self._descriptions.forget(message.routing_key)
            code = Code.TIMEOUT if message.sent else Code.MESH_UNAVAILABLE
            raise Problem(code, outcome=_outcome(message)) from None
        except Unroutable:
            raise Problem(Code.SERVICE_UNAVAILABLE) from None
        except ConnectionLost:
            if reply is not None and reply.done() and (answer := reply.result()) is not None:
                return answer
            raise Problem(Code.MESH_UNAVAILABLE, outcome=_outcome(message)) from None
        finally:
            self._pending_calls.leave(message)
        if answer is None:
            raise Problem(Code.MESH_UNAVAILABLE, outcome=Outcome.UNKNOWN)
        return answer

    async def _seal(self, message: Message) -> None:
        service = message.routing_key
        try:
            async with asyncio.timeout_at(message.deadline):
                key = (await self.describe(service)).public_key
        except TimeoutError:
            raise Problem(Code.TIMEOUT) from None
        except Problem as problem:
            raise Problem(problem.code, problem.description) from problem
        if key is None:
            logger.warning("%s takes no encrypted calls (trace %s)", service, message.trace_id)
            raise Problem(Code.SERVICE_ERROR)
        message.seal_for(key)

    async def _ask(self, service: str) -> Any:
        return await self.request(service, describe.METHOD, {}, context={})

    def _late(self, message: Message, late: Callable[[Any, Problem | None], None]) -> Late:
        def tell(answer: Reply | Problem) -> None:
            if isinstance(answer, Problem):
                late(None, answer)
            elif answer.error is not None:
                late(None, self._format.problem(answer.error, message))
            else:
                late(answer.result, None)

        return tell


def _outcome(message: Message) -> Outcome:
    return Outcome.UNKNOWN if message.sent else Outcome.NOT_SENT


def connect(
    settings: MeshSettings,
    metrics: Metrics | None = None,
    *,
    broker: MemoryBroker | None = None,
    codec: Codec = nuropb,
    name: str = "mesh",
) -> MeshClient:
    """The client for `settings.amqp_url`; `broker` is the in-process mesh to share, if that.

    A second one needs a `name` of its own, for health and metrics.
    """
    transport: MeshTransport
    if settings.amqp_url == "memory://":
        transport = MemoryTransport(settings.app_name, broker or MemoryBroker())
    else:
        transport = AmqpTransport(settings)
    return MeshClient(settings, metrics or Metrics(), transport, codec=codec, name=name)


async def run(make: Callable[[Publish], Service], settings: MeshSettings | None = None) -> None:
    """Be a service of the mesh, as a program of its own, until cancelled or told to end by SIGTERM.

    `make` makes the service; it takes the function that publishes events.
    """
    settings = settings or MeshSettings()
    logs.configure(settings)
    mesh = connect(settings)
    await mesh.serve(make(mesh.publish))

"""The mesh client: calls services, publishes events, and runs event handlers and services."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from bff.errors import Code, Problem
from bff.mesh import describe, nuropb
from bff.mesh.codec import Codec
from bff.mesh.describe import DescriptionCache, ServiceDescription
from bff.mesh.events import EventHandler
from bff.mesh.messages import Kind, Message
from bff.mesh.pending_requests import PendingRequests
from bff.mesh.receiver import MessageReceiver, RetryLimits
from bff.mesh.sender import MessageSender
from bff.mesh.service import Service
from bff.mesh.transport import MeshStatus, MeshTransport
from bff.names import check_lists, check_trace_id, is_event_name
from bff.settings import MeshSettings
from bff.telemetry.metrics import Metrics

MAX_TOPIC_BYTES = 255

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,127}")


class MeshClient:
    """One client of the mesh. Every call has a deadline."""

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
        self._codec = codec
        self._name = name
        self._clients_by_service: dict[str, MeshClient] = {}
        self._event_handlers: list[EventHandler] = []
        self.services: list[Service] = []
        """The services that this client runs."""
        self._pending_requests = PendingRequests(settings, metrics)
        self._descriptions = DescriptionCache(
            self._request_description, settings.description_cache_seconds
        )
        self._sender = MessageSender(
            transport, codec, self._pending_requests, self._descriptions, metrics
        )
        self._receiver = MessageReceiver(
            self._pending_requests,
            codec,
            metrics,
            self._report_status,
            RetryLimits(settings.max_event_retries, settings.event_retry_seconds),
        )
        self._context: dict[str, Any] = {}

    def with_context(self, context: dict[str, Any]) -> Self:
        """A copy of this client. Its calls carry `context`, which names the user they are for."""
        # Runs for each call from a browser: `copy.copy` would take three times as long.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__, _context=context)
        return copied

    def route(self, services: Iterable[str], to: MeshClient) -> None:
        """Use another client for these services: for another vhost, or another message format.

        Callers see no difference. The other client starts and stops with this one.

        Raises:
            TypeError: `services` is a string instead of a list.
            ValueError: the other client routes one of them back to this one.
        """
        check_lists(services=services)
        routes = dict.fromkeys(services, to)
        for service in routes:
            client: MeshClient | None = to
            while client is not None:
                if client._transport is self._transport:
                    raise ValueError(f"the routes of {service!r} would lead back to this client")
                client = client._clients_by_service.get(service)
        self._clients_by_service.update(routes)

    def add_event_handler(self, event_handler: EventHandler) -> None:
        """Add an event handler, before `start`.

        Raises:
            ValueError: another event handler has that name.
        """
        if any(event_handler.name == other.name for other in self._event_handlers):
            raise ValueError(f"two event handlers are named {event_handler.name!r}")
        self._event_handlers.append(event_handler)

    def add_service(self, service: Service) -> None:
        """Add a service that this client runs, before `start`.

        Raises:
            ValueError: another service has that name.
        """
        if any(service.name == other.name for other in self.services):
            raise ValueError(f"two services are named {service.name!r}")
        service.time_limit_seconds = self._settings.max_request_timeout_seconds
        self.services.append(service)

    async def serve(self, service: Service) -> None:
        """Run a service as the task of a process, until SIGTERM or cancellation."""
        terminated = asyncio.Event()
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
        self.add_service(service)
        try:
            await self.start()
            await terminated.wait()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Begin to connect. Does not wait for the broker: see `status`."""
        for client in (self, *self._others()):
            await client._transport.start(client._receiver, client._event_handlers, client.services)

    async def stop(self) -> None:
        """Disconnect. Requests that wait for a reply fail."""
        async with AsyncExitStack() as stack:
            for client in (self, *self._others()):
                stack.push_async_callback(client._transport.stop)

    @property
    def status(self) -> MeshStatus:
        """Whether calls can be made now, with this client and those it routes to."""
        for other in self._others():
            status = other._transport.status
            if not status.connected:
                return MeshStatus(False, f"{other._name}: {status.reason}")
        return self._transport.status

    @property
    def stuck(self) -> str:
        """The event handlers that have been retrying one event for over a minute, as text."""
        clients = (self, *self._others())
        return "; ".join(filter(None, (client._receiver.stuck for client in clients)))

    @property
    def consumers_down(self) -> dict[str, str]:
        """The queues that should be consumed and are not, each with the reason: of this client and
        of those that it routes to."""
        down = dict(self._transport.consumers_down)
        for other in self._others():
            theirs = other._transport.consumers_down
            down |= {f"{other._name}: {queue}": why for queue, why in theirs.items()}
        return down

    async def wait_until_rights_checked(self) -> None:
        """Wait until the broker has said whether the user of `AMQP_URL` may publish, which `status`
        includes from then on. Without a timeout: set one around it."""
        await self._transport.wait_until_rights_checked()

    async def check_queues(self, other: MeshClient) -> dict[str, str]:
        """Check that the queues of another client's event handlers and services can be declared and
        read. Starts no consumer. Returns, for each queue, why it cannot, or an empty string."""
        return dict(await self._transport.check_queues(other._event_handlers, other.services))

    async def unconsumed_events(self, handler_names: Iterable[str]) -> dict[str, int]:
        """How many events wait in the queues of these event handlers: of those queues that exist
        and that no instance consumes.

        Raises:
            ConnectionLost: the connection ended.
        """
        return dict(await self._transport.unconsumed_events(handler_names))

    def _report_status(self) -> None:
        connected = self._transport.status.connected
        self._metrics.mesh_connected.labels(self._name).set(connected)
        down = len(self._transport.consumers_down)
        self._metrics.mesh_consumers_down.labels(self._name).set(down)

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
        """Call a method and return its result.

        `timeout`, in seconds, includes the time to connect; it is at most
        `max_request_timeout_seconds`. With `encrypted` only the service can read the call, and
        only this client the reply. If a call that was sent ends before its reply (by its deadline,
        a cancellation, or the loss of the connection that sent it), `late` is called once, when the
        reply arrives or the client gives up on it: `late(result, None)` or `late(None, problem)`.

        Raises:
            Problem: the error of the service, or why there is no reply.
        """
        client = self._client_for(service)
        message = client._encode(Kind.REQUEST, service, method, params, context, timeout, trace_id)
        reply = client._pending_requests.expect(message)
        try:
            return await client._sender.call(message, reply, encrypted)
        finally:
            on_late = late and client._sender.on_late(message, late)
            client._pending_requests.stop_waiting(message, on_late)

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
        """Call a method without waiting for a result. Returns when the broker has the command.

        A command that no instance of the service has taken within `timeout` seconds is dropped.

        Raises:
            Problem: the command was not sent, or it is not known whether it was.
        """
        client = self._client_for(service)
        message = client._encode(Kind.COMMAND, service, method, params, context, timeout, trace_id)
        await client._sender.call(message, None, encrypted)

    async def describe(self, service: str) -> ServiceDescription:
        """A service's description of itself, at most `description_cache_seconds` old.

        Raises:
            Problem: the service did not answer.
        """
        return await self._client_for(service)._descriptions.get(service)

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        context: dict[str, Any] | None = None,
        target: list[str] | None = None,
        trace_id: str | None = None,
    ) -> None:
        """Publish an event. Returns when the broker has it, with or without subscribers.

        `context` and `target` (the users whom the event is for) are fields of NuroPb's events. The
        context of `with_context` belongs to calls and is not sent.

        Raises:
            Problem: the event was not sent, or it is not known whether it was.
        """
        if not is_event_name(topic) or len(topic.encode()) > MAX_TOPIC_BYTES:
            raise Problem(
                Code.INVALID_PARAMS, f"Not an event name of at most {MAX_TOPIC_BYTES} bytes"
            )
        if trace_id is not None:
            check_trace_id(trace_id)
        deadline = self._deadline(None)
        trace_id = trace_id or secrets.token_hex(16)
        try:
            message = self._codec.event(topic, event, context or {}, target, trace_id, deadline)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The event is not JSON") from error
        await self._sender.send(message, reply=None)

    def _others(self) -> list[MeshClient]:
        """The clients that this one routes to, and those that they route to: each once."""
        found = [self]
        for client in found:
            for other in client._clients_by_service.values():
                # The copies that `with_context` makes share a transport.
                if all(other._transport is not one._transport for one in found):
                    found.append(other)
        return found[1:]

    def _client_for(self, service: str) -> MeshClient:
        other = self._clients_by_service.get(service)
        return self if other is None else other._client_for(service).with_context(self._context)

    def _encode(
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
        if trace_id is not None:
            check_trace_id(trace_id)
        deadline = self._deadline(timeout)
        trace_id = trace_id or secrets.token_hex(16)
        try:
            context = {**self._context, **(context or {}), "trace_id": trace_id}
            message = self._codec.call(kind, service, method, params, context, trace_id, deadline)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The parameters are not JSON") from error
        message.method = method
        return message

    def _deadline(self, timeout: float | None) -> float:
        seconds = self._settings.request_timeout_seconds if timeout is None else timeout
        limited = min(seconds, self._settings.max_request_timeout_seconds)
        return asyncio.get_running_loop().time() + limited

    async def _request_description(self, service: str) -> Any:
        return await self.request(service, describe.METHOD, {}, context={})

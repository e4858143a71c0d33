"""The mesh inside one process, for development and tests: NuroPb messages without a broker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery, Kind, MalformedMessage, Message
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, MeshStatus, Receiver, Unroutable
from bff.names import topic_matches
from bff.tasks import TaskSet

MAX_EVENTS = 10_000
"""Events in the queue of an event handler. Beyond it the oldest moves to the overflow."""
MAX_DEAD_LETTERS = 1_000
MAX_CALLS = 10_000
"""Calls that wait for a service or are being carried out. Further calls are unroutable."""
CONCURRENT_CALLS = 64
"""Calls that a service carries out at once."""

logger = logging.getLogger(__name__)


_Answer = Callable[[Delivery], Awaitable[Message | None]]


@dataclass
class _ServiceQueue:
    """The queue of a service. Its instances take turns."""

    instances: deque[_Answer] = field(default_factory=deque)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_CALLS))


@dataclass
class _EventQueue:
    """The durable queue of an event handler. It remains when it has no consumer."""

    pattern: list[str]
    events: deque[Delivery] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    active: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the single active consumer."""


class MemoryBroker:
    """Replaces RabbitMQ. Transports that share a broker act as instances of one deployment."""

    def __init__(self) -> None:
        self.dead_letters: deque[Delivery] = deque(maxlen=MAX_DEAD_LETTERS)
        self.overflow: deque[Delivery] = deque(maxlen=MAX_DEAD_LETTERS)
        self.queues: dict[str, _EventQueue] = {}
        self.up = asyncio.Event()
        self.up.set()
        self._services: dict[str, _ServiceQueue] = {}
        self._transports: dict[str, MemoryTransport] = {}
        self._calls = TaskSet("in-process mesh call")

    def serve(self, service: Service, answer: _Answer | None = None) -> _Answer:
        """Add an instance of a service."""
        answer = answer or service.answer
        self._services.setdefault(service.name, _ServiceQueue()).instances.append(answer)
        return answer

    def stop_serving(self, service: Service, answer: _Answer) -> None:
        """Remove an instance of a service. Calls of a service without instances are unroutable."""
        instances = self._services[service.name].instances
        instances.remove(answer)
        if not instances:
            del self._services[service.name]

    def interrupt(self) -> None:
        """Simulate a broker that is down, until `resume`."""
        self.up.clear()
        for transport in tuple(self._transports.values()):
            transport.on_interrupted()

    def resume(self) -> None:
        """Simulate a broker that is up again."""
        self.up.set()
        for transport in tuple(self._transports.values()):
            transport.on_resumed()

    def attach(self, transport: MemoryTransport) -> None:
        """Connect a transport."""
        self._transports[transport.reply_to] = transport

    async def detach(self, transport: MemoryTransport) -> None:
        """Disconnect a transport. With the last one all calls are cancelled."""
        self._transports.pop(transport.reply_to, None)
        if not self._transports:
            await self._calls.stop()

    def queue(self, name: str, pattern: str) -> _EventQueue:
        """Declare the queue of an event handler."""
        return self.queues.setdefault(name, _EventQueue(pattern.split(".")))

    def route(self, message: Message, reply_to: str) -> None:
        """Deliver a message.

        Raises:
            Unroutable: the called service has no instance, or too many calls are in flight.
        """
        delivery = Delivery(
            message.routing_key,
            message.body,
            message.correlation_id,
            message.trace_id,
            message.kind,
            reply_to if message.is_call else "",
        )
        if message.kind is Kind.EVENT:
            self._fan_out(delivery)
            return
        self.deliver(message.routing_key, delivery, message.deadline)

    def deliver(self, service: str, delivery: Delivery, deadline: float) -> None:
        """Deliver a call to a service.

        Raises:
            Unroutable: the service has no instance, or too many calls are in flight.
        """
        queue = self._services.get(service)
        if queue is None or len(self._calls) >= MAX_CALLS:
            raise Unroutable(service)
        self._calls.start(self._carry_out(queue, delivery, deadline))

    def _fan_out(self, delivery: Delivery) -> None:
        words = delivery.routing_key.split(".")
        for queue in self.queues.values():
            if topic_matches(queue.pattern, words):
                if len(queue.events) >= MAX_EVENTS:
                    self.overflow.append(queue.events.popleft())
                queue.events.append(delivery)
                queue.arrived.set()

    async def _carry_out(self, queue: _ServiceQueue, delivery: Delivery, deadline: float) -> None:
        async with queue.slots:
            if asyncio.get_running_loop().time() >= deadline or not queue.instances:
                return
            queue.instances.rotate()
            try:
                reply = await queue.instances[0](delivery)
            except MalformedMessage as error:
                logger.warning(
                    "malformed call moved to the dead letters",
                    extra={"service": delivery.routing_key, "error": str(error)},
                )
                self.dead_letters.append(delivery)
                return
        _settle(delivery)
        caller = self._transports.get(delivery.reply_to)
        if reply is not None and caller is not None:
            caller.on_reply(reply.correlation_id, reply.body)


def _settle(delivery: Delivery) -> None:
    while delivery.on_settled:
        delivery.on_settled.pop()()


class MemoryTransport:
    """Connects one instance to a `MemoryBroker`."""

    def __init__(self, app_name: str, broker: MemoryBroker) -> None:
        self.broker = broker
        self.reply_to = f"memory-{id(self)}"
        self._app_name = app_name
        self._receiver: Receiver | None = None
        self._event_handlers: Sequence[EventHandler] = ()
        self._serving: list[tuple[Service, _Answer]] = []
        self._consumers = TaskSet("in-process event consumer")

    @property
    def status(self) -> MeshStatus:
        """Connected from `start` to `stop`, unless the broker is interrupted."""
        if self._receiver is None:
            return MeshStatus(False, "not started")
        up = self.broker.up.is_set()
        return MeshStatus(up, "" if up else "interrupted")

    @property
    def consumers_down(self) -> Mapping[str, str]:
        """None: an event handler or a service of this process cannot fail to consume."""
        return {}

    async def wait_until_rights_checked(self) -> None:
        """At once: everything may be published."""

    async def check_queues(
        self, event_handlers: Sequence[EventHandler], services: Sequence[Service]
    ) -> Mapping[str, str]:
        """Nothing can be wrong."""
        return {}

    async def unconsumed_events(self, handler_names: Iterable[str]) -> Mapping[str, int]:
        """None: queues end with the process."""
        return {}

    async def start(
        self,
        receiver: Receiver,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
    ) -> None:
        """Connect to the broker."""
        self._receiver, self._event_handlers = receiver, event_handlers
        self.broker.attach(self)
        for service in services:
            answer = self.broker.serve(service, partial(receiver.on_call, service))
            self._serving.append((service, answer))
        self.on_resumed()

    async def stop(self) -> None:
        """Disconnect from the broker."""
        if self._receiver is None:
            return
        await self._consumers.stop()
        for service, answer in self._serving:
            self.broker.stop_serving(service, answer)
        self._serving.clear()
        await self.broker.detach(self)
        receiver, self._receiver = self._receiver, None
        receiver.on_replies_lost()
        receiver.on_status()

    async def publish(self, message: Message) -> None:
        """Hand a message to the broker. Waits while the broker is interrupted.

        Raises:
            Unroutable: the called service has no instance, or too many calls are in flight.
            ConnectionLost: the transport is not started.
        """
        if self._receiver is None:
            raise ConnectionLost("not started")
        await self.broker.up.wait()
        self.broker.route(message, self.reply_to)
        message.sent = True

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Hand on a reply, unless the broker is interrupted."""
        if self._receiver is not None and self.broker.up.is_set():
            self._receiver.on_reply(correlation_id, body)

    def on_interrupted(self) -> None:
        """Lose the replies. Events that are being handled will be delivered again."""
        for task in self._consumers:
            task.cancel()
        if self._receiver is not None:
            self._receiver.on_replies_lost()
            self._receiver.on_status()

    def on_resumed(self) -> None:
        """Consume events again."""
        if self._receiver is None:
            return
        for event_handler in self._event_handlers:
            queue = self.broker.queue(
                f"{self._app_name}.events.{event_handler.name}.v1", event_handler.topic
            )
            self._consumers.start(self._consume(queue, event_handler, self._receiver))
        self._receiver.on_status()

    async def _consume(
        self, queue: _EventQueue, event_handler: EventHandler, receiver: Receiver
    ) -> None:
        async with queue.active:
            while True:
                while not queue.events:
                    queue.arrived.clear()
                    await queue.arrived.wait()
                delivery = queue.events[0]
                handled = await receiver.on_event(event_handler, delivery)
                if not handled:
                    self.broker.dead_letters.append(delivery)
                if queue.events and queue.events[0] is delivery:
                    queue.events.popleft()
                _settle(delivery)

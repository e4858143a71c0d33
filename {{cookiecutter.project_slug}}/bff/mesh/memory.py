"""The mesh inside one process, for development and tests: NuroPb messages without a broker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bff.mesh.events import EventHandler, topic_matches
from bff.mesh.messages import Delivery, Kind, MalformedMessage, Message
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, MeshStatus, Receiver, Unroutable

MAX_EVENTS = 10_000
MAX_DEAD_LETTERS = 1_000
MAX_CALLS = 10_000
"""Calls that wait for a service or are in work; more are unroutable."""
CONCURRENT_CALLS = 64
"""Calls that a service works on at once."""

logger = logging.getLogger(__name__)


_Answer = Callable[[Delivery], Awaitable[Message | None]]


@dataclass
class _Service:
    """A service's queue; its instances take turns."""

    instances: deque[_Answer] = field(default_factory=deque)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_CALLS))


@dataclass
class _EventQueue:
    """A rule's durable queue: it stays when nobody consumes it."""

    pattern: list[str]
    events: deque[Delivery] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    active: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the single active consumer."""


class MemoryBroker:
    """What RabbitMQ is to the mesh. Transports that share one are instances of one deployment."""

    def __init__(self) -> None:
        self.dead_letters: deque[Delivery] = deque(maxlen=MAX_DEAD_LETTERS)
        self.queues: dict[str, _EventQueue] = {}
        self.up = asyncio.Event()
        self.up.set()
        self._services: dict[str, _Service] = {}
        self._transports: dict[str, MemoryTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, service: Service, answer: _Answer | None = None) -> _Answer:
        """Let an instance of an in-process service join the mesh."""
        answer = answer or service.answer
        self._services.setdefault(service.name, _Service()).instances.append(answer)
        return answer

    def leave(self, service: Service, answer: _Answer) -> None:
        """Let that instance go; without one the service is not there."""
        instances = self._services[service.name].instances
        instances.remove(answer)
        if not instances:
            del self._services[service.name]

    def interrupt(self) -> None:
        """Be away, as a broker that was stopped, until `resume`."""
        self.up.clear()
        for transport in tuple(self._transports.values()):
            transport.on_interrupted()

    def resume(self) -> None:
        """Be back."""
        self.up.set()
        for transport in tuple(self._transports.values()):
            transport.on_resumed()

    def attach(self, transport: MemoryTransport) -> None:
        """Take a transport in."""
        self._transports[transport.reply_to] = transport

    async def detach(self, transport: MemoryTransport) -> None:
        """Let a transport go; with the last one, all calls in work end."""
        self._transports.pop(transport.reply_to, None)
        if not self._transports:
            await _end(self._tasks)

    def queue(self, name: str, pattern: str) -> _EventQueue:
        """Declare a rule's queue."""
        return self.queues.setdefault(name, _EventQueue(pattern.split(".")))

    def route(self, message: Message, reply_to: str) -> None:
        """Hand a message on.

        Raises:
            Unroutable: a call to a service that is not there or takes no more.
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
        """Have a service answer a call.

        Raises:
            Unroutable: it is not there or takes no more.
        """
        called = self._services.get(service)
        if called is None or len(self._tasks) >= MAX_CALLS:
            raise Unroutable(service)
        self._spawn(self._serve(called, delivery, deadline))

    def _fan_out(self, delivery: Delivery) -> None:
        words = delivery.routing_key.split(".")
        for queue in self.queues.values():
            if topic_matches(queue.pattern, words):
                if len(queue.events) >= MAX_EVENTS:
                    self.dead_letters.append(queue.events.popleft())
                queue.events.append(delivery)
                queue.arrived.set()

    async def _serve(self, called: _Service, delivery: Delivery, deadline: float) -> None:
        async with called.slots:
            if asyncio.get_running_loop().time() >= deadline or not called.instances:
                return
            called.instances.rotate()
            try:
                reply = await called.instances[0](delivery)
            except MalformedMessage as error:
                logger.warning("a call to the dead letters: %s", error)
                self.dead_letters.append(delivery)
                return
        caller = self._transports.get(delivery.reply_to)
        if reply is not None and caller is not None:
            caller.on_reply(reply.correlation_id, reply.body)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("An in-process call failed", exc_info=task.exception())


class MemoryTransport:
    """One instance's way to a `MemoryBroker`."""

    def __init__(self, app_name: str, broker: MemoryBroker) -> None:
        self.broker = broker
        self.reply_to = f"memory-{id(self)}"
        self._app_name = app_name
        self._receiver: Receiver | None = None
        self._event_handlers: Sequence[EventHandler] = ()
        self._serving: list[tuple[Service, _Answer]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def status(self) -> MeshStatus:
        """Connected from `start` to `stop`, unless the broker is interrupted."""
        if self._receiver is None:
            return MeshStatus(False, "not started")
        up = self.broker.up.is_set()
        return MeshStatus(up, "" if up else "interrupted")

    async def start(
        self,
        receiver: Receiver,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
    ) -> None:
        """Join the broker."""
        self._receiver, self._event_handlers = receiver, event_handlers
        self.broker.attach(self)
        for service in services:
            answer = self.broker.serve(service, partial(receiver.on_call, service))
            self._serving.append((service, answer))
        self.on_resumed()

    async def stop(self) -> None:
        """Leave the broker."""
        if self._receiver is None:
            return
        await _end(self._tasks)
        for service, answer in self._serving:
            self.broker.leave(service, answer)
        self._serving.clear()
        await self.broker.detach(self)
        receiver, self._receiver = self._receiver, None
        receiver.on_replies_lost()
        receiver.on_status()

    async def publish(self, message: Message) -> None:
        """Hand a message to the broker.

        Raises:
            Unroutable: a call to a service that is not there.
            ConnectionLost: not started.
        """
        if self._receiver is None:
            raise ConnectionLost("not started")
        await self.broker.up.wait()
        self.broker.route(message, self.reply_to)
        message.sent = True

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Pass a reply on, if there is a connection."""
        if self._receiver is not None and self.broker.up.is_set():
            self._receiver.on_reply(correlation_id, body)

    def on_interrupted(self) -> None:
        """Lose the replies; events in work come again."""
        for task in self._tasks:
            task.cancel()
        if self._receiver is not None:
            self._receiver.on_replies_lost()
            self._receiver.on_status()

    def on_resumed(self) -> None:
        """Consume again."""
        if self._receiver is None:
            return
        for event_handler in self._event_handlers:
            queue = self.broker.queue(
                f"{self._app_name}.events.{event_handler.name}.v1", event_handler.topic
            )
            consuming = self._consume(queue, event_handler, self._receiver)
            task = asyncio.get_running_loop().create_task(consuming)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
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
                taken = await receiver.on_event(event_handler, delivery)
                if not taken:
                    self.broker.dead_letters.append(delivery)
                if queue.events and queue.events[0] is delivery:
                    queue.events.popleft()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    ending = tuple(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)

"""Two brokers with one interface for tests: the in-process one, and RabbitMQ behind a proxy."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from typing import Any, Protocol

import aiormq
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh
from bff.mesh.memory import MemoryBroker, MemoryTransport
from bff.mesh.messages import Delivery, Kind, Message
from bff.mesh.rabbitmq.event_queue import dead_letter_queues, queue_of
from bff.mesh.rabbitmq.service_queue import RedeliveredCalls, ServiceConsumer
from bff.mesh.rabbitmq.transport import AmqpTransport
from bff.mesh.service import Service
from bff.mesh.transport import MeshTransport
from bff.settings import Settings
from bff.testing import until
from yarl import URL


class Engine(Protocol):
    """A broker that tests can interrupt."""

    def transport(self) -> MeshTransport: ...
    async def serve(self, service: Service) -> None: ...
    async def interrupt(self) -> None: ...
    async def resume(self) -> None: ...
    async def send_raw_event(self, topic: str, body: bytes) -> None: ...
    async def send_raw_call(self, service: str, delivery: Delivery) -> None: ...
    async def dead_letters(self) -> list[bytes]: ...
    async def close(self) -> None: ...


class MemoryEngine:
    """The in-process mesh."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._broker = MemoryBroker()

    def transport(self) -> MeshTransport:
        return MemoryTransport(self._settings.app_name, self._broker)

    async def serve(self, service: Service) -> None:
        self._broker.serve(service)

    async def interrupt(self) -> None:
        self._broker.interrupt()

    async def resume(self) -> None:
        self._broker.resume()

    async def send_raw_event(self, topic: str, body: bytes) -> None:
        self._broker.route(Message(Kind.EVENT, topic, body, "c", "t", deadline=0), "")

    async def send_raw_call(self, service: str, delivery: Delivery) -> None:
        self._broker.deliver(service, delivery, deadline=math.inf)

    async def dead_letters(self) -> list[bytes]:
        return [letter.body for letter in self._broker.dead_letters]

    async def close(self) -> None:
        pass


class RabbitEngine:
    """RabbitMQ. Transports connect through a proxy, services and the test itself directly."""

    def __init__(self, settings: Settings) -> None:
        self._url = URL(settings.amqp_url)
        self.proxy = Proxy(self._url.host or "", self._url.port or 5672)
        self._settings = settings
        self._connections: list[aiormq.abc.AbstractConnection] = []
        self.services: list[MeshClient] = []

    async def start(self) -> None:
        await self.proxy.listen()
        self.channel = await self._open()
        for name, kind in (("rpc", "direct"), ("events", "topic")):
            await self.channel.exchange_declare(
                f"nuropb-{name}-exchange", exchange_type=kind, durable=True
            )

    async def _open(self) -> aiormq.abc.AbstractChannel:
        connection = await aiormq.connect(self._url)
        self._connections.append(connection)
        return await connection.channel()

    @property
    def proxied_url(self) -> str:
        return str(self._url.with_host("127.0.0.1").with_port(self.proxy.port))

    def transport(self) -> MeshTransport:
        return AmqpTransport(self._settings.model_copy(update={"amqp_url": self.proxied_url}))

    async def serve(self, service: Service) -> None:
        client = connect_mesh(self._settings)
        client.add_service(service)
        self.services.append(client)
        await client.start()
        await until(lambda: client.status.connected)

    async def interrupt(self) -> None:
        await self.proxy.close()

    async def resume(self) -> None:
        await self.proxy.listen()

    async def send_raw_event(self, topic: str, body: bytes) -> None:
        properties = aiormq.spec.Basic.Properties(correlation_id="c")
        await self.channel.basic_publish(
            body, exchange="nuropb-events-exchange", routing_key=topic, properties=properties
        )

    async def send_raw_call(self, service: str, delivery: Delivery) -> None:
        properties = aiormq.spec.Basic.Properties(
            correlation_id=delivery.correlation_id,
            reply_to=delivery.reply_to,
            headers={"nuropb_type": delivery.kind} if delivery.kind else None,
        )
        await self.channel.basic_publish(
            delivery.body,
            exchange="nuropb-rpc-exchange",
            routing_key=service,
            properties=properties,
        )

    async def dead_letters(self) -> list[bytes]:
        letters = []
        queue = f"{self._settings.app_name}.dead-letters.v1"
        while (message := await self.channel.basic_get(queue, no_ack=True)).body:
            letters.append(message.body)
        return letters

    async def delete_queues_of(self, client: MeshClient) -> None:
        """Delete the queues of the event handlers and services of a client that has stopped."""
        for service in client.services:
            for queue in (ServiceConsumer, RedeliveredCalls):
                await self.channel.queue_delete(queue.queue_of(service.name))
        for event_handler in client._event_handlers:
            await self.channel.queue_delete(queue_of(self._settings.app_name, event_handler.name))

    async def close(self) -> None:
        for queue in dead_letter_queues(self._settings.app_name):
            await self.channel.queue_delete(queue)
        for client in self.services:
            await client.stop()
            await self.delete_queues_of(client)
        for connection in self._connections:
            await connection.close()
        await self.proxy.close()
        self.proxy.release()


class Proxy:
    """A TCP proxy that can close its connections, or stop forwarding data."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.silent = False
        self.accepted = 0
        """How many connections there were."""
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._reserved: socket.socket | None = None
        """Bound, not listening: while the proxy is closed, no other program gets its port."""

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._writers) // 2

    async def listen(self) -> None:
        if self._reserved is None:
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved.bind(("127.0.0.1", 0))
            self.port = self._reserved.getsockname()[1]
        self._server = await asyncio.start_server(
            self._forward, "127.0.0.1", self.port, reuse_port=True
        )

    async def close(self) -> None:
        """Refuse new connections and abort the open ones."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    def release(self) -> None:
        """Give the port back, at the end."""
        if self._reserved is not None:
            self._reserved.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self.accepted += 1
        pair = {writer, up_writer}
        self._writers |= pair
        await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        self._writers -= pair

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self.silent:
                    writer.write(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()


def raw(topic: str, event: Any) -> bytes:
    """The body of an event as a NuroPb service sends it."""
    return json.dumps({"tag": "event", "topic": topic, "event": event}).encode()

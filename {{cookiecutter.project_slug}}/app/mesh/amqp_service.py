"""A small service of the mesh on RabbitMQ, as NuroPb's own services are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiormq import Channel, spec
from aiormq.abc import AbstractConnection, DeliveredMessage

from app.mesh import nuropb
from app.mesh.link import BROKER_SECONDS, Link, broker_errors, declare_exchanges, open_channel
from app.mesh.nuropb import Kind
from app.mesh.rule_queue import delivery
from app.mesh.service import Methods, answer
from app.settings import Settings

CONCURRENT_CALLS = 64


class AmqpService:
    """Joins the mesh under a name; other instances under the same name share the work.

    Its queue is declared as NuroPb declares it, so a NuroPb service can take its place.
    """

    def __init__(self, settings: Settings, name: str, methods: Methods) -> None:
        self._settings = settings
        self._name = name
        self._methods = methods
        self._link = Link(settings.amqp_url, f"service {name}", self._consumer, lambda: None)

    async def start(self) -> None:
        """Begin to connect."""
        self._link.start()

    async def joined(self) -> None:
        """Wait until calls are taken."""
        await self._link.channel()

    async def stop(self) -> None:
        """Leave the mesh."""
        await self._link.stop()

    @asynccontextmanager
    async def _consumer(self, connection: AbstractConnection) -> AsyncIterator[Channel]:
        queue = f"nuropb-{self._name}-sq"
        with broker_errors():
            channel = await open_channel(connection, confirms=False)

            async def on_call(message: DeliveredMessage) -> None:
                await self._answer(channel, message)

            async with asyncio.timeout(BROKER_SECONDS):
                await declare_exchanges(channel, self._settings)
                await channel.queue_declare(
                    queue,
                    durable=True,
                    arguments={"x-dead-letter-exchange": self._settings.dead_letter_exchange},
                )
                await channel.queue_bind(queue, self._settings.rpc_exchange, routing_key=self._name)
                await channel.basic_qos(prefetch_count=CONCURRENT_CALLS)
                await channel.basic_consume(queue, on_call)
        yield channel

    async def _answer(self, channel: Channel, message: DeliveredMessage) -> None:
        properties = message.header.properties
        request = delivery(message)
        reply_to = properties.reply_to or ""
        replies = await answer(self._methods, request, reply_to)
        is_request = (properties.headers or {}).get("nuropb_type") == Kind.REQUEST
        with broker_errors():
            async with asyncio.timeout(BROKER_SECONDS):
                for body in replies if is_request and reply_to else ():
                    await channel.basic_publish(
                        body,
                        routing_key=reply_to,
                        properties=spec.Basic.Properties(
                            content_type=nuropb.CONTENT_TYPE,
                            correlation_id=request.correlation_id,
                            reply_to="",
                            headers=nuropb.headers(Kind.RESPONSE, request.trace_id),
                        ),
                        wait=False,
                    )
                await channel.basic_ack(message.delivery_tag or 0, wait=False)

"""A mesh service without nuropb, of a few lines: it takes calls from a NuroPb queue and echoes.

For tests in which the broker goes away: a nuropb service would not come back from that.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.common import FieldTable

SECONDS = 10


@asynccontextmanager
async def plain_service(amqp_url: str, name: str) -> AsyncIterator[None]:
    """Answer requests for the service `name`: with their parameters, after `seconds` if given."""
    connection = aiormq.Connection(amqp_url)
    async with asyncio.timeout(SECONDS):
        await connection.connect()
        channel = await connection.channel()
        await channel.exchange_declare("nuropb-rpc-exchange", exchange_type="direct", durable=True)
        declared = await channel.queue_declare(
            f"nuropb-{name}-sq",
            durable=True,
            arguments={"x-dead-letter-exchange": "nuropb-dl-exchange"},
        )
        queue = declared.queue or ""
        await channel.queue_bind(queue, "nuropb-rpc-exchange", routing_key=name)

    async def answer(message: DeliveredMessage) -> None:
        request = message.header.properties
        call = json.loads(message.body)
        await asyncio.sleep(call["params"].get("seconds", 0))
        reply = {
            "tag": "response",
            "correlation_id": request.correlation_id,
            "context": call["context"],
            "trace_id": call["trace_id"],
            "result": call["params"],
            "error": None,
            "warning": None,
            "reply_to": request.reply_to,
        }
        with suppress(aiormq.exceptions.AMQPError, asyncio.CancelledError):
            await channel.basic_publish(
                json.dumps(reply).encode(),
                routing_key=request.reply_to or "",
                properties=aiormq.spec.Basic.Properties(correlation_id=request.correlation_id),
            )

    async with asyncio.timeout(SECONDS):
        await channel.basic_consume(queue, answer, no_ack=True)
    try:
        yield
    finally:
        with suppress(Exception):
            async with asyncio.timeout(SECONDS):
                await connection.close()


async def publish(
    amqp_url: str, topic: str, event: dict[str, Any], *, user_id: str | None = None
) -> None:
    """Publish an event as nuropb does, which names no user."""
    correlation_id = uuid.uuid4().hex
    body = {
        "tag": "event",
        "topic": topic,
        "event": event,
        "context": {},
        "trace_id": None,
        "correlation_id": correlation_id,
        "target": None,
    }
    headers: FieldTable = {
        "nuropb_protocol": "0.1.1",
        "nuropb_version": "0.1.8",
        "nuropb_type": "event",
        "trace_id": None,
        "encrypted": "",
    }
    async with asyncio.timeout(SECONDS):
        connection = await aiormq.connect(amqp_url)
        try:
            channel = await connection.channel()
            await channel.basic_publish(
                json.dumps(body).encode(),
                exchange="nuropb-events-exchange",
                routing_key=topic,
                properties=aiormq.spec.Basic.Properties(
                    content_type="application/json",
                    correlation_id=correlation_id,
                    reply_to="",
                    headers=headers,
                    user_id=user_id,
                ),
            )
        finally:
            await connection.close()

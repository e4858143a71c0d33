"""A service `ledger` with JSON-RPC 2.0, without code of the engine: `… <amqp url>`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage


async def main(amqp_url: str) -> None:
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    await channel.queue_declare("ledger", durable=True)

    async def answer(message: DeliveredMessage) -> None:
        asked = message.header.properties
        call = json.loads(message.body)
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": call.get("id")}
        if "currency" not in call["params"]:
            reply["error"] = {"code": -32602, "message": "currency of db-17 is missing"}
        else:
            user = (asked.headers or {})["user_id"]
            reply["result"] = {"user": user, "balance": 7, **call["params"]}
        await channel.basic_publish(
            json.dumps(reply).encode(),
            routing_key=asked.reply_to or "",
            properties=aiormq.spec.Basic.Properties(correlation_id=asked.correlation_id),
        )

    await channel.basic_consume("ledger", answer, no_ack=True)
    print("ledger is there", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

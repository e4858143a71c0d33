"""A client on the real nuropb 0.1.8: `… <amqp url> <calls as JSON>`, prints what it was answered.

A call is `[service, method, params, context, encrypted]`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from nuropb.rmq_api import RMQAPI


async def main(amqp_url: str, calls: list[Any]) -> None:
    api = RMQAPI(amqp_url=amqp_url)
    await api.connect()
    assert api.connected, "not connected to the mesh"
    answers = []
    for service, method, params, context, encrypted in calls:
        if encrypted:
            await api.describe_service(service)
        answer = await api.request(
            service, method, params, context, rpc_response=False, encrypted=encrypted
        )
        answers.append({"result": answer["result"], "error": answer["error"]})
    print(json.dumps(answers), flush=True)
    await api.disconnect()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))

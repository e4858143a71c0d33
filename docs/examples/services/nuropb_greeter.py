"""The same service with NuroPb 0.1.8: python nuropb_greeter.py amqp://guest:guest@localhost:5672/"""

import asyncio
import sys

from nuropb.contexts.context_manager import NuropbContextManager
from nuropb.contexts.context_manager_decorator import nuropb_context
from nuropb.rmq_api import RMQAPI


class Greeter:
    api: RMQAPI

    @nuropb_context
    def greet(self, ctx: NuropbContextManager, name: str) -> str:
        event = {"user_id": ctx.context["user_id"], "name": name}
        self.api.publish_event("greeter.greeted", event, context={})
        return f"Hello {name}"


async def main(amqp_url: str) -> None:
    greeter = Greeter()
    greeter.api = RMQAPI(amqp_url, service_name="greeter", service_instance=greeter)
    await greeter.api.connect()
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))

"""The service `greeter`: AMQP_URL=… python greeter.py"""

import asyncio

from bff import Context, Publish, Service, run_service


def greeter(publish: Publish) -> Service:
    service = Service("greeter")

    @service.method("greet")
    async def greet(name: str, context: Context) -> str:
        await publish("greeter.greeted", {"user_id": context["user_id"], "name": name})
        return f"Hello {name}"

    return service


asyncio.run(run_service(greeter))

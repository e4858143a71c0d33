"""The service `greeter`, with the project's own `app/mesh`: AMQP_URL=… python greeter.py"""

import asyncio

from app.mesh.client import connect
from app.mesh.service import Context, Service
from app.settings import MeshSettings

mesh = connect(MeshSettings())
greeter = Service("greeter")


@greeter.method("greet")
async def greet(name: str, context: Context) -> str:
    await mesh.publish("greeter.greeted", {"user_id": context["user_id"], "name": name})
    return f"Hello {name}"


asyncio.run(mesh.serve(greeter))

"""What development adds to the app."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI

from app.development import page
from app.development.orders_service import orders_service
from app.mesh.memory import MemoryBroker

SERVICES: Final = (orders_service,)
"""The services of the mesh that `AMQP_URL=memory://` names, each by the function that makes it. Add
a stand-in for one of yours, and `make dev` answers for it."""


def install(app: FastAPI, broker: MemoryBroker) -> None:
    """Serve the page at `/`, and let the services join the in-process mesh."""
    app.include_router(page.router)
    for service in SERVICES:
        broker.serve(service(app.state.mesh.publish))

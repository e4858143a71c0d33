"""What is only there in development: the page and the example service."""

from __future__ import annotations

from fastapi import FastAPI

from app.development import page
from app.development.orders_service import orders_service
from app.mesh.memory import MemoryBroker


def install(app: FastAPI, broker: MemoryBroker) -> None:
    """Serve the page at `/`; on the in-process mesh, let the service `orders` join."""
    app.include_router(page.router)
    broker.serve(orders_service(app.state.mesh.publish))

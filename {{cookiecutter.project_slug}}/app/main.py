"""The app: the engine with your settings, routes and resources."""

from __future__ import annotations

from fastapi import FastAPI

from app import routes
from app.development.orders_service import orders_service
from app.settings import Settings
from bff import Bff, MemoryBroker


def create_app(settings: Settings | None = None, *, broker: MemoryBroker | None = None) -> FastAPI:
    """Called by the server, and by tests with their own settings and broker."""
    bff = Bff(
        settings or Settings(),
        realtime=routes.REALTIME,
        provide={},  # your own resources by type: {Billing: open_billing}
        stand_ins=[orders_service],  # services that answer in `make dev`
        broker=broker,
    )
    app = FastAPI(title=bff.settings.app_name, version="1.0.0", lifespan=bff.lifespan)
    bff.install(app)
    for router in routes.HTTP:
        app.include_router(router)
    return app

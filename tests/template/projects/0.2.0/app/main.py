"""The app: the engine with this project's settings, routes and resources."""

from __future__ import annotations

from fastapi import FastAPI

from app import routes
from app.development.archive_service import archive_service
from app.settings import Settings
from app.words import Words, open_words
from bff import Bff, MemoryBroker


def create_app(settings: Settings | None = None, *, broker: MemoryBroker | None = None) -> FastAPI:
    bff = Bff(
        settings or Settings(),
        realtime=routes.REALTIME,
        provide={Words: open_words},
        stand_ins=[archive_service],
        broker=broker,
    )
    app = FastAPI(title=bff.settings.app_name, lifespan=bff.lifespan)
    bff.install(app)
    for router in routes.HTTP:
        app.include_router(router)
    return app

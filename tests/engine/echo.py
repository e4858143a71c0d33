"""The feature that the engine's tests use: an exposed mesh service and a handler of its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.routes import admin, health, websocket
from bff import (
    Bff,
    Context,
    MemoryBroker,
    MeshEvent,
    Messenger,
    Publish,
    RealtimeRouter,
    Service,
    Settings,
)
from bff.application import Provider
from bff.auth.oidc.sign_in import Authorize
from bff.endpoints import rpc, services, sign_in, sse, tickets
from bff.realtime.user_check import StillAllowed
from fastapi import APIRouter, FastAPI

realtime = RealtimeRouter()
realtime.expose("echo", methods=["say"])


@realtime.event("echo.*.said", name="echo_said")
async def said(event: MeshEvent, messenger: Messenger) -> None:
    await messenger.to_user(event.payload["user_id"], "echo.said", event.payload)


def echo_service(publish: Publish) -> Service:
    """Returns its parameters, and publishes them as an event."""
    service = Service("echo")

    @service.method("say")
    async def say(context: Context, text: str = "") -> dict[str, Any]:
        reply = {"user_id": context["user_id"], "text": text}
        await publish(f"echo.{len(text)}.said", reply)
        return reply

    @service.method("shout")
    async def shout(text: str = "") -> str:
        return text.upper()

    return service


def create_app(
    settings: Settings,
    *more: RealtimeRouter,
    http: Sequence[APIRouter] = (),
    provide: Mapping[type[Any], Provider] | None = None,
    broker: MemoryBroker | None = None,
    authorize: Authorize | None = None,
    still_allowed: StillAllowed | None = None,
) -> FastAPI:
    """An app with every endpoint of the engine, this feature, and what a test adds."""
    bff = Bff(
        settings,
        realtime=[services.realtime, realtime, *more],
        provide=provide,
        stand_ins=[echo_service],
        broker=broker,
        authorize=authorize,
        still_allowed=still_allowed,
    )
    app = FastAPI(title=settings.app_name, lifespan=bff.lifespan)
    bff.install(app)
    for router in (
        websocket.router,
        sse.router,
        rpc.router,
        tickets.router,
        sign_in.router,
        health.router,
        admin.router,
        *http,
    ):
        app.include_router(router)
    return app

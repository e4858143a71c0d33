"""Every kind of handler gets the injectable types: methods, checks, policies, events, served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.db.database import Database
from bff.mesh.client import MeshClient
from bff.mesh.messages import MeshRequest
from bff.realtime.injection import INJECTABLE
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import Browser, run

from tests.engine.echo import create_app

realtime = RealtimeRouter()


async def takes_all(
    messenger: Messenger,
    mesh: MeshClient,
    presence: Presence,
    database: Database,
    settings: Settings,
    metrics: Metrics,
) -> bool:
    """Whether every argument has the type of its parameter."""
    given = (messenger, mesh, presence, database, settings, metrics)
    assert {type(one) for one in given} == INJECTABLE
    await database.ping()
    return await presence.of(["nobody"]) == {"nobody": []}


realtime.method("all.ask")(takes_all)
realtime.topic("all")(takes_all)
realtime.mesh_method("ask")(takes_all)
realtime.event("all.asked", name="asked")(takes_all)
realtime.expose("echo", methods=["shout"], check=takes_all)


@realtime.method("all.serve")
async def serve(mesh: MeshClient, settings: Settings) -> Any:
    return await mesh.request(settings.app_name, "ask", {})


@pytest.fixture
async def browser(settings: Settings) -> AsyncIterator[Browser]:
    async with run(create_app(settings, realtime)) as bff, bff.browser() as browser:
        yield browser


@pytest.mark.parametrize("method", ["ask", "serve"])
async def test_in_a_method(browser: Browser, method: str) -> None:
    answer = await browser.request("all", method)
    assert (answer["result"], answer["error"]) == (True, None)


class MySettings(Settings):
    """The settings of an app, which are those of the engine and its own."""

    greeting: str = "hello"


async def test_the_settings_class_of_the_app(settings: Settings) -> None:
    mine = RealtimeRouter()

    @mine.method("mine.greet")
    async def greet(settings: MySettings) -> str:
        return settings.greeting

    own = MySettings(**settings.model_dump())
    async with run(create_app(own, mine)) as bff, bff.browser() as browser:
        assert (await browser.request("mine", "greet"))["result"] == "hello"


async def test_in_the_check_of_an_exposed_method(browser: Browser) -> None:
    assert (await browser.request("echo", "shout"))["error"] is None


async def test_in_a_topic_policy(browser: Browser) -> None:
    frame = {"type": "subscribe", "payload": {"topics": [{"topic": "all"}], "trace_id": "s"}}
    assert (await browser.ask(frame))["error"] is None


async def test_other_types_are_refused() -> None:
    async def ask(request: MeshRequest) -> bool:
        return True

    with pytest.raises(TypeError, match="must be annotated with one of"):
        RealtimeRouter().method("a.b")(ask)
    with pytest.raises(TypeError, match="must be annotated with one of"):
        RealtimeRouter().topic("a")(ask)

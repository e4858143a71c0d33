"""The test kit of an app: its fixtures, its server and its clients."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import app.main
import app.settings
import pytest
from bff.errors import Code, Problem
from bff.mesh.service import Service
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import EventSource, RunningBff, plugin, run, until
from bff.testing.plugin import CreateApp, create_app, settings_class
from bff.testing.running import serve
from fastapi import FastAPI
from uvicorn import Config

from tests.engine.echo import create_app as create_echo

__all__ = ["create_app", "settings_class"]


def test_the_fixtures_are_those_of_the_app(
    settings_class: type[Settings], create_app: CreateApp, settings: Settings
) -> None:
    assert settings_class is app.settings.Settings
    assert create_app is app.main.create_app
    assert isinstance(settings, app.settings.Settings)
    assert settings.environment == "test"


async def test_an_app_that_does_not_start_is_an_error(settings: Settings) -> None:
    @asynccontextmanager
    async def broken(_: FastAPI) -> AsyncIterator[None]:
        raise ValueError("no start")
        yield

    entered = False
    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(settings, FastAPI(lifespan=broken)):
            entered = True
    assert not entered


async def test_until_waits_for_any_kind_of_condition() -> None:
    async def never() -> bool:
        return False

    async def at_once() -> bool:
        return True

    await until(at_once)
    await until(lambda: True)
    with pytest.raises(TimeoutError):
        await until(never, seconds=0.05)
    with pytest.raises(TimeoutError):
        await until(lambda: False, seconds=0.05)


async def test_a_browser_keeps_the_frames_that_it_passes_over(bff: RunningBff) -> None:
    async with bff.browser() as browser:
        for number in (1, 2):
            await bff.engine.messenger.to_user("alice", f"n{number}", number)
        assert (await browser.event("n2"))["event"] == 2
        assert [one["payload"]["topic"] for one in browser.passed_over()] == ["n1"]
        assert (await browser.event("n1"))["event"] == 1
        assert browser.passed_over() == []
        assert (await browser.request("echo", "say", text="a"))["result"]["text"] == "a"


class Response:
    """A response whose body comes in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def source(*pieces: bytes) -> EventSource:
    response: Any = Response(*pieces)
    return EventSource(response)


def event(topic: str, event: int) -> bytes:
    frame = {"type": "event", "payload": {"topic": topic, "event": event}}
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


async def test_an_event_source_reads_as_browsers_do() -> None:
    other = b'data: {"type": "pong", "payload": {}}\n\n'
    stream = b": hello\n\nretry: 50\nid: 7\n" + event("a", 1) + other + event("b", 2)
    events = source(*(bytes([byte]) for byte in stream))
    assert (events.comments, events.retry, events.last_event_id) == (0, None, "")
    assert (await events.event("b"))["event"] == 2
    assert (events.comments, events.retry, events.last_event_id) == (1, 50, "7")
    with pytest.raises(EOFError):
        await events.receive()


async def test_the_code_of_an_event_sources_close_is_returned() -> None:
    close = b'data: {"type": "close", "payload": {"code": 4001}}\n\n'
    assert await source(event("a", 1), close).closed() == 4001
    assert await source(event("a", 1)).closed() is None


async def test_many_tasks_can_wait_at_once() -> None:
    done = False

    async def finish() -> None:
        nonlocal done
        await asyncio.sleep(0)
        done = True

    await asyncio.gather(until(lambda: done), until(lambda: done), finish())


async def test_the_clients_are_those_of_the_user_that_a_test_names(settings: Settings) -> None:
    realtime = RealtimeRouter()

    @realtime.topic("news")
    async def may_read() -> bool:
        return True

    async with run(create_echo(settings, realtime)) as bff:
        carol = bff.token("carol")
        async with (
            bff.browser("bob") as browser,
            bff.events("bob", topics="news") as source,
            bff.browser("bob", token=carol) as other_browser,
            bff.events("bob", token=carol) as other_source,
        ):
            users = [one.hello["user_id"] for one in (browser, source, other_browser, other_source)]
            assert users == ["bob", "bob", "carol", "carol"]
            assert source.last_event_id
            before = source.last_event_id
            assert (await browser.subscribe("news"))["error"] is None
            await bff.engine.messenger.to_topic("news", 1)
            assert (await browser.event("news"))["event"] == 1
            assert (await source.event("news"))["event"] == 1
            async with bff.events("bob", last_event_id=before, topics="news") as resumed:
                assert (await resumed.event("news"))["event"] == 1
            closing = asyncio.gather(browser.closed(), source.closed())
            async with bff.http("dave", ["admin"]) as http:
                assert not closing.done()
                assert (await http.delete("/admin/users/bob/connections")).status_code == 202
            assert [*await closing] == [4504, 4504]
        async with bff.event_stream() as unknown:
            assert unknown.response.status_code == 401


async def test_a_service_is_on_the_mesh_until_the_end_of_its_block(bff: RunningBff) -> None:
    name = f"{bff.settings.app_name}-billing"
    service = Service(name)

    @service.method("pay")
    async def pay(amount: int) -> int:
        return amount

    async with bff.mesh_service(service):
        assert await bff.engine.mesh.request(name, "pay", {"amount": 3}) == 3
    with pytest.raises(Problem) as away:
        await bff.engine.mesh.request(name, "pay", {"amount": 3}, timeout=0.3)
    assert away.value.code in (Code.SERVICE_UNAVAILABLE, Code.TIMEOUT)


async def test_a_server_uses_the_listener_it_was_given_and_has_stopped_after_its_block(
    settings: Settings,
) -> None:
    stopped = False

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal stopped
        yield
        await asyncio.sleep(0)
        stopped = True

    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    async with (
        serve(settings, FastAPI(lifespan=lifespan), listener=listener) as (_, address),
        serve(settings, FastAPI()) as (_, second),
        serve(settings, FastAPI()) as (_, third),
    ):
        assert len({address, second, third}) == 3, "without one each has a port of its own"
        assert address == f"{host}:{port}"
        assert not stopped
    assert stopped
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(host, port)


def test_tests_run_on_the_loop_of_uvicorn_or_on_that_of_asyncio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert plugin.pytest_asyncio_loop_factories()["loop"] is Config("").get_loop_factory()
    monkeypatch.setattr(Config, "get_loop_factory", lambda _: None)
    assert plugin.pytest_asyncio_loop_factories()["loop"] is asyncio.new_event_loop

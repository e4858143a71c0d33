"""An instance that gets SIGTERM closes its connections one by one and exits in time."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.baked import InstalledProject
from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person, person_of
from tests.e2e.deployment import Deployment
from tests.e2e.events import event_stream
from tests.e2e.processes import Instance
from tests.e2e.waiting import until
from tests.servers import Server

DRAIN = 4001
DRAIN_SECONDS = 4.0
SOCKETS = 200
PER_USER = 20
EXIT_SECONDS = DRAIN_SECONDS + 10
"""Within which an instance is gone: generous for a loaded machine, and less than the grace
period that the documentation asks for."""
MORE_THAN_THE_KERNEL_TAKES = 200
"""Messages of 60 KiB, 12 MB: what its buffers cannot take waits in the server."""

PLAIN = ["-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"]
SERVERS: dict[str, tuple[Callable[[Deployment], list[str | Path]], int]] = {
    "bff serve": (lambda d: [d.project.bff, "serve", "--port", "0"], -signal.SIGTERM),
    "workers": (lambda d: [d.project.bff, "serve", "--port", "0", "--workers", "2"], 0),
    "plain uvicorn": (lambda d: [d.project.python, *PLAIN], -signal.SIGTERM),
}
"""How the BFF can be run, and how each ends on SIGTERM: uvicorn raises the signal again, its
parent of several workers does not."""


@pytest.fixture(scope="module")
def deployment(
    project: InstalledProject,
    redis_server: Server,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    deployment = Deployment(
        project,
        tmp_path_factory.mktemp("draining"),
        REDIS_URL=redis_server.url,
        AMQP_URL=rabbitmq_server.url,
        DRAIN_SECONDS=str(DRAIN_SECONDS),
        MAX_CONNECTIONS_PER_USER=str(2 * PER_USER),
    )
    assert deployment.bff("migrate").returncode == 0
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.fixture(scope="module")
def stays(deployment: Deployment) -> Instance:
    """The instance to which the clients reconnect."""
    instance = deployment.serve("stays")
    instance.until_ready()
    return instance


@pytest.fixture
def admin(deployment: Deployment, http: httpx2.AsyncClient) -> Admin:
    return Admin(http, deployment.token("carol", "admin"))


@dataclass(frozen=True)
class Left:
    """How one socket ended."""

    code: int
    at: float
    """`time.monotonic()`."""


async def ends(browser: Browser) -> Left:
    return Left(await browser.closed(EXIT_SECONDS), time.monotonic())


async def comes_back(
    browser: Browser, person: Person, to: Instance, connect: Connect
) -> tuple[Left, Browser]:
    """All that a client does: it waits for the end, then as long as it was told, and goes on
    elsewhere from where it was."""
    left = await ends(browser)
    (told,) = [frame for frame in browser.frames if frame["type"] == "drain"]
    await asyncio.sleep(told["payload"]["reconnect_after_ms"] / 1000)
    seen = [message["id"] for message in browser.events("counted")]
    since = seen[-1] if seen else browser.hello["positions"]["user"]
    return left, await connect(to, person, query=f"since={since}")


async def count_up(
    admin: Admin, instance: Instance, people: set[Person], stop: asyncio.Event
) -> int:
    """Send numbered messages to users until stopped; returns how many."""
    audience = {"audience": "users", "user_ids": [person.id for person in people]}
    for number in itertools.count():
        await admin.broadcast(instance, "counted", event={"number": number}, **audience)
        if stop.is_set():
            return number + 1
        await asyncio.sleep(0.1)
    raise AssertionError


def numbers_of(*browsers: Browser) -> list[int]:
    """The numbers of the messages that came, in this order."""
    return [message["event"]["number"] for each in browsers for message in each.events("counted")]


async def crowd_on(
    instance: Instance, deployment: Deployment, connect: Connect, number: int
) -> list[tuple[Person, Browser]]:
    """So many sockets of several people."""
    make = person_of(deployment)
    people = [make("ann", "demo") for _ in range(number // PER_USER)] * PER_USER
    browsers = await asyncio.gather(*(connect(instance, person) for person in people))
    return list(zip(people, browsers, strict=True))


async def readiness(http: httpx2.AsyncClient, instance: Instance) -> dict[str, Any]:
    """The response of `/health/ready`, without blocking the connections of this test."""
    answer: dict[str, Any] = (await http.get(f"{instance.url}/health/ready")).json()
    return answer


async def ask_to_wait(browser: Browser, seconds: float) -> None:
    """Have a request in flight for so long."""
    params = {"seconds": seconds}
    await browser.say("request", service="demo", method="wait", params=params, trace_id="in-flight")
    await browser.answers()


@pytest.mark.parametrize("how", SERVERS)
async def test_sockets_leave_evenly_over_the_drain_time_and_nothing_is_lost(
    deployment: Deployment,
    stays: Instance,
    admin: Admin,
    http: httpx2.AsyncClient,
    connect: Connect,
    how: str,
) -> None:
    command, exit_code = SERVERS[how]
    leaves = deployment.start(how.replace(" ", "-"), command(deployment))
    await leaves.started(2 if "workers" in how else 1)
    crowd = await crowd_on(leaves, deployment, connect, SOCKETS)
    people = {person for person, _ in crowd}
    stop = asyncio.Event()
    counting = asyncio.create_task(count_up(admin, stays, people, stop))
    busy = [browser for _, browser in crowd[:: SOCKETS // 10]]
    for browser in busy:
        await ask_to_wait(browser, 2)

    leaves.signal(signal.SIGTERM)
    told_at = time.monotonic()
    leaving = [
        asyncio.create_task(comes_back(browser, person, stays, connect))
        for person, browser in crowd
    ]
    last_ready = told_at
    checks: dict[str, Any] = {}
    async with asyncio.timeout(EXIT_SECONDS):
        while not checks:
            asked_at = time.monotonic()
            with suppress(httpx2.TransportError):  # a worker without any socket is gone at once
                answer = await readiness(http, leaves)
                if answer["ready"]:
                    last_ready = asked_at
                else:
                    checks = answer["checks"]
    assert [name for name, check in checks.items() if not check["ok"]] == ["instance"]
    with pytest.raises(InvalidStatus) as refused:
        await Browser.open(leaves, token=crowd[0][0].token)
    assert refused.value.response.status_code == 503

    came_back = await asyncio.gather(*leaving)
    left = [each for each, _ in came_back]
    assert Counter(each.code for each in left) == {DRAIN: SOCKETS}
    answers = [await browser.response("in-flight") for browser in busy]
    assert [(answer["error"], answer["result"]) for answer in answers] == [(None, 2)] * len(busy)
    times = sorted(each.at for each in left)
    assert last_ready < times[0], "a socket was closed before readiness was red"
    assert times[-1] - times[0] > DRAIN_SECONDS / 2
    quarters = Counter(int(4 * (at - times[0]) / (times[-1] - times[0])) for at in times[:-1])
    assert all(SOCKETS / 20 <= quarters[n] <= SOCKETS / 2 for n in range(4)), quarters

    assert await leaves.exited(EXIT_SECONDS) == exit_code
    assert time.monotonic() - told_at < EXIT_SECONDS
    assert "Traceback" not in leaves.output

    stop.set()
    sent = await counting
    await admin.fence(stays, *(browser for _, browser in came_back))
    for (_, before), (_, after) in zip(crowd, came_back, strict=True):
        assert after.hello["recovered"] == {"user": True}
        assert numbers_of(before, after) == list(range(sent))

    async def all_are_back() -> bool:
        found = [await admin.connections(stays, person.id) for person in people]
        return [len(connections) for connections in found] == [PER_USER] * len(found)

    await until(all_are_back, "everybody is on the other instance and nowhere else")


@pytest.mark.parametrize("how", ["bff serve", "plain uvicorn"])
async def test_event_streams_leave_like_sockets_and_miss_nothing(
    deployment: Deployment, stays: Instance, admin: Admin, http: httpx2.AsyncClient, how: str
) -> None:
    leaves = deployment.start(f"streams-{how[:5].strip()}", SERVERS[how][0](deployment))
    leaves.until_ready()
    ann = person_of(deployment)("ann")

    async def leave() -> tuple[float, str]:
        async with event_stream(http, f"{leaves.url}/events", ann) as events:
            await anext(events)
            opened.release()
            frames = [received async for received in events]
        assert [received.frame["type"] for received in frames] == ["drain", "close"]
        assert frames[-1].frame["payload"]["code"] == DRAIN
        return time.monotonic(), frames[-1].id

    opened = asyncio.Semaphore(0)
    leaving = [asyncio.create_task(leave()) for _ in range(PER_USER)]
    for _ in leaving:
        await opened.acquire()
    leaves.signal(signal.SIGTERM)
    left = await asyncio.gather(*leaving)
    assert max(at for at, _ in left) - min(at for at, _ in left) > DRAIN_SECONDS / 2
    assert await leaves.exited(EXIT_SECONDS) == SERVERS[how][1]
    assert "Traceback" not in leaves.output
    await admin.broadcast(stays, "missed", audience="users", user_ids=[ann.id])
    async with event_stream(http, f"{stays.url}/events", ann, left[0][1]) as events:
        await anext(events)
        assert (await anext(events)).frame["payload"]["topic"] == "missed"


async def test_an_instance_without_sockets_goes_at_once(deployment: Deployment) -> None:
    leaves = deployment.serve("empty", DRAIN_SECONDS="60")
    leaves.until_ready()
    leaves.signal(signal.SIGTERM)
    assert await leaves.exited(30) == -signal.SIGTERM


async def test_few_sockets_do_not_take_all_of_the_drain_time(
    deployment: Deployment, connect: Connect
) -> None:
    leaves = deployment.serve("few", DRAIN_SECONDS="60")
    leaves.until_ready()
    ann = person_of(deployment)("ann")
    browsers = [await connect(leaves, ann) for _ in range(3)]
    leaves.signal(signal.SIGTERM)
    assert [await browser.closed() for browser in browsers] == [DRAIN] * 3
    assert await leaves.exited(30) == -signal.SIGTERM


async def test_a_request_that_does_not_end_does_not_delay_the_drain(
    deployment: Deployment, connect: Connect
) -> None:
    leaves = deployment.serve("busy", DRAIN_SECONDS="4")
    leaves.until_ready()
    browser = await connect(leaves, person_of(deployment)("ann", "demo"))
    params = {"seconds": 30}
    await browser.say(
        "request", service="demo", method="wait", params=params, trace_id="long", timeout_ms=30_000
    )
    await browser.answers()
    leaves.signal(signal.SIGTERM)
    await browser.frame(lambda frame: frame["type"] == "drain")

    async def refused() -> bool:
        answer = await browser.ask("demo", "wait", {"seconds": 0})
        return answer["error"] is not None and answer["error"]["code"] == "service_unavailable"

    await until(refused, "new requests are refused")
    assert await browser.closed() == DRAIN
    assert browser.responses("long") == []
    assert await leaves.exited(30) == -signal.SIGTERM


async def test_a_second_ctrl_c_cuts_it_short(deployment: Deployment, connect: Connect) -> None:
    leaves = deployment.serve("hurried", DRAIN_SECONDS="600")
    leaves.until_ready()
    crowd = await crowd_on(leaves, deployment, connect, PER_USER)
    leaves.signal(signal.SIGINT)
    await until(lambda: not leaves.readiness()["ready"], "readiness is red")
    leaves.signal(signal.SIGINT)
    left = await asyncio.gather(*(ends(browser) for _, browser in crowd))
    assert Counter(each.code for each in left) == {DRAIN: PER_USER}
    had_their_turn = [browser for _, browser in crowd if browser.frames[-1]["type"] == "drain"]
    assert len(had_their_turn) < PER_USER
    assert await leaves.exited(30) in (0, 130, -signal.SIGINT)
    assert "Traceback" not in leaves.output


@pytest.mark.long
async def test_workers_are_replaced_one_after_the_other_on_sighup(
    deployment: Deployment, connect: Connect
) -> None:
    workers = deployment.serve("replaced", "--workers", "2", DRAIN_SECONDS="1")
    await workers.started(2)
    crowd = await crowd_on(workers, deployment, connect, PER_USER)
    before = {browser.connection_id.partition(".")[0] for _, browser in crowd}
    workers.signal(signal.SIGHUP)
    left = await asyncio.gather(*(ends(browser) for _, browser in crowd))
    assert Counter(each.code for each in left) == {DRAIN: PER_USER}

    async def all_are_new() -> bool:
        try:
            browser = await connect(workers, crowd[0][0])
        except InvalidStatus:
            return False
        return browser.connection_id.partition(".")[0] not in before

    await until(all_are_new, "the new workers let sockets in")


@pytest.mark.parametrize(
    "how", ["bff serve", pytest.param("plain uvicorn", marks=pytest.mark.long)]
)
async def test_a_peer_that_has_stopped_reading_does_not_hold_up_the_exit(
    deployment: Deployment, admin: Admin, connect: Connect, how: str
) -> None:
    """Plain uvicorn waits for such a peer for ever, unless it is given a limit."""
    command = SERVERS[how][0](deployment)
    limit = ["--timeout-graceful-shutdown", "5"] if how == "plain uvicorn" else []
    roomy = {"DRAIN_SECONDS": "1", "MAX_QUEUE_BYTES": str(16 << 20)}
    leaves = deployment.start("stalled", [*command, *limit], **roomy)
    leaves.until_ready()
    ann = person_of(deployment)("ann")
    stalled = await connect(leaves, ann)
    stalled.socket.transport.pause_reading()
    audience = {"audience": "connection", "connection_id": stalled.connection_id}
    for _ in range(MORE_THAN_THE_KERNEL_TAKES):
        await admin.broadcast(leaves, "bulk", event={"text": "z" * 60 * 1024}, **audience)
    assert len(await admin.connections(leaves, ann.id)) == 1

    leaves.signal(signal.SIGTERM)
    assert await leaves.exited(30) == -signal.SIGTERM
    stalled.socket.transport.resume_reading()

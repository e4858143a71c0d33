"""A rolling update behind the shipped nginx.conf: 200 clients lose nothing in silence."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.baked import InstalledProject
from tests.chaos.checker import check
from tests.chaos.clients import (
    Client,
    EventStreamClient,
    Page,
    Pages,
    Visitor,
    WebSocketClient,
)
from tests.chaos.clients.base import Recorder
from tests.chaos.deployment import INSTANCE, Clock
from tests.chaos.history import History, Refused, Sent, Taken, Unknown
from tests.chaos.traffic import ByAdmin, ByMethod, Http, Traffic, Way
from tests.e2e.deployment import Deployment
from tests.e2e.processes import Instance
from tests.e2e.waiting import until
from tests.node import needed_websocket_command
from tests.servers import Server, nginx
from tests.servers.server import free_port

USERS = tuple(f"user-{number}" for number in range(20))
TOPICS = ("chaos.tea", "chaos.milk")
PAGES, SOCKETS, EVENT_STREAMS = 5, 4, 1
"""Per user: `bff-client.js` under Node, raw sockets, `GET /events`. 200 clients."""
DRAIN_SECONDS = 5
READY_SECONDS = 60
REQUEST_MS = 500
ROUNDS = {"short": 1, "long": 5}


@dataclass
class Slot:
    """A place in nginx' upstream: one instance after the other serves on its port."""

    name: str
    port: int
    deployment: Deployment
    instance: Instance | None = None

    def start(self) -> Instance:
        command = (self.deployment.project.python, "-P", INSTANCE, "serve", "--port", self.port)
        self.instance = self.deployment.start(self.name, [str(part) for part in command])
        return self.instance

    async def ready(self) -> None:
        instance = self.instance
        assert instance is not None
        listens = f"http://127.0.0.1:{self.port} "
        await until(lambda: listens in instance.output, f"{self.name} listens", READY_SECONDS)
        ready = lambda: asyncio.to_thread(instance.is_ready)  # noqa: E731
        await until(ready, f"{self.name} is ready", READY_SECONDS)

    async def replaced(self, number: signal.Signals) -> None:
        """End it, start the next one, and wait until that is ready."""
        assert self.instance is not None
        self.instance.signal(number)
        await self.instance.exited()
        self.start()
        await self.ready()


@dataclass(frozen=True)
class Proxy:
    """nginx, as an address of clients: it does not tell which instance answers."""

    url: str
    process: str = ""


@pytest.fixture
def deployment(
    installed: InstalledProject, redis_server: Server, rabbitmq_server: Server, tmp_path: Path
) -> Iterator[Deployment]:
    deployment = Deployment(
        installed,
        tmp_path,
        REDIS_URL=redis_server.url,
        AMQP_URL=rabbitmq_server.url,
        FORWARDED_ALLOW_IPS="127.0.0.1",
        DRAIN_SECONDS=str(DRAIN_SECONDS),
        PING_INTERVAL_SECONDS="2",
        MAX_MESSAGES_PER_MINUTE="100000",
        MAX_MESSAGE_BURST="10000",
        MAX_TICKETS_PER_USER="1000",
    )
    yield deployment
    deployment.close()


def clients_of(
    deployment: Deployment, proxy: Proxy, recorder: Recorder
) -> tuple[list[Visitor], list[Page]]:
    visitors: list[Visitor] = []
    pages: list[Page] = []
    for number, user in enumerate(USERS):
        token, topics = deployment.token(user), TOPICS[: number % 3]
        pages += [Page(f"{user}/page-{n}", user, topics, token) for n in range(PAGES)]
        kinds = [WebSocketClient] * SOCKETS + [EventStreamClient] * EVENT_STREAMS
        visitors += [
            kind(
                f"{user}/{kind.__name__}-{n}",
                user,
                topics,
                token,
                addresses=[proxy],
                recorder=recorder,
                chance=random.Random(f"{user} {n}"),
            )
            for n, kind in enumerate(kinds)
        ]
    for visitor in visitors:
        visitor.stays.set()
    return visitors, pages


@pytest.mark.parametrize("length", ["short", pytest.param("long", marks=pytest.mark.long)])
async def test_a_rolling_update_and_a_crash_lose_nothing_in_silence(
    deployment: Deployment, tmp_path: Path, length: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node = needed_websocket_command()
    assert deployment.bff("migrate").returncode == 0
    slots = [Slot(name, free_port(), deployment) for name in ("A", "B")]
    for slot in slots:
        slot.start()
    clock, history = Clock(), History(tmp_path / "history.jsonl")
    recorder = Recorder(history, clock)
    for slot in slots:
        await slot.ready()
    text = (deployment.project.path / "deploy" / "nginx.conf").read_text()
    async with (
        nginx.before(text, tmp_path, *(slot.port for slot in slots)) as address,
        aclosing(
            Http(
                [proxy := Proxy(f"http://{address}")],
                deployment.token("sender", "admin"),
                random.Random(2),
            )
        ) as http,
    ):
        visitors, js_clients = clients_of(deployment, proxy, recorder)
        pages = Pages(
            js_clients,
            project=deployment.project.path,
            addresses=[proxy],
            recorder=recorder,
            request_ms=REQUEST_MS,
        )
        clients: list[Client] = [*visitors, *js_clients]
        assert len(clients) == 200
        traffic = Traffic(history, clock, random.Random(1))
        ways: list[Way] = [ByMethod(http), ByAdmin(http)]
        streams = [f"user:{user}" for user in USERS[:3]]
        streams += [*(f"topic:{topic}" for topic in TOPICS), "all"]
        async with asyncio.TaskGroup() as background:
            tasks = [background.create_task(visitor.run()) for visitor in visitors]
            tasks.append(background.create_task(pages.run(node)))
            async with asyncio.timeout(READY_SECONDS):
                for client in clients:
                    await client.ready.wait()
            flow = background.create_task(traffic.flow(ways, streams))
            for _ in range(ROUNDS[length]):
                for slot in slots:
                    await slot.replaced(signal.SIGTERM)
            graceful = failures(history, pages)
            await slots[0].replaced(signal.SIGKILL)
            flow.cancel()
            await asyncio.wait({flow})
            await settled(clients, traffic, ways, streams)
            for task in tasks:
                task.cancel()
    history.close()

    verdict = check(history.records, allowance=60, max_stream_length=1000)
    count = Counter(type(record) for record in history.records)
    crash = failures(history, pages) - graceful
    figures = (
        f"{length}: sent {count[Sent]}, confirmed {count[Taken]}, "
        f"delivered {verdict.applied} to {len(clients)} clients, "
        f"of these recovered {verdict.recovered}; lost and told {verdict.lost}; "
        f"violations (lost in silence, double, order) {len(verdict.violations)}; "
        f"requests answered {pages.requests['answered']}, "
        f"failed in the update {dict(graceful)}, in the crash {dict(crash)}"
    )
    with capsys.disabled():
        print(f"\nrolling update, {figures}")
    assert verdict.violations == [], "\n".join(map(str, verdict.violations[:20]))
    assert verdict.applied > 1000
    assert verdict.recovered > 0
    assert verdict.lost == 0, "Redis has lost nothing"
    assert pages.requests["answered"] > 0
    assert not graceful, f"an update costs no request: {dict(graceful)}"
    assert all(page.told == page.announced for page in js_clients)


async def settled(
    clients: list[Client], traffic: Traffic, ways: list[Way], streams: list[str]
) -> None:
    """Every client is connected, and has the last message of each stream that it follows."""
    async with asyncio.timeout(READY_SECONDS):
        for client in clients:
            await client.ready.wait()
        last = await traffic.last(ways, streams)

    def have_all() -> bool:
        wanted = {client: [s for s in client.streams if s in last] for client in clients}
        return all(last[s] <= client.applied for client, ss in wanted.items() for s in ss)

    await until(have_all, "everybody has the last messages", READY_SECONDS)


def failures(history: History, pages: Pages) -> Counter[str]:
    """Requests that were not answered, over HTTP and over sockets, by their reason."""
    failed = pages.requests + Counter(
        record.reason for record in history.records if isinstance(record, Unknown | Refused)
    )
    del failed["answered"]
    del failed["cancelled"]  # by this test, when it stopped sending
    return failed

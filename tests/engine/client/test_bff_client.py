"""The browser client in Node's test runner: with a scripted socket, and with a running BFF."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from bff.cluster.messenger import Messenger
from bff.connections.close_codes import CloseCode
from bff.errors import Code
from bff.realtime.declarations import Topic
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing.plugin import SECRET
from pydantic import BaseModel

from tests import node
from tests.engine.echo import create_app

HERE = Path(__file__).parent
CLIENT = HERE.parents[2] / "{{cookiecutter.project_slug}}" / "client"
MAX_LINES = 250
KEPT = 5
"""Messages that a stream keeps."""

realtime = RealtimeRouter()


class Price(BaseModel):
    topic: str
    price: int


@realtime.topic("prices.*")
async def may_see_price(topic: Topic) -> bool:
    return topic != "prices.secret"


class Gift(BaseModel):
    topic: str
    user: str


@realtime.method("prices.give")
async def give_price(params: Gift, messenger: Messenger) -> None:
    await messenger.subscribe(params.user, params.topic)


@realtime.method("prices.set")
async def set_price(params: Price, messenger: Messenger) -> None:
    await messenger.to_topic(params.topic, params.price)


@pytest.fixture
def bff_url(tmp_path: Path) -> Iterator[str]:
    """A BFF in development, on a real socket, with the example service and topics."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = Settings(
        _env_file=None,
        environment="development",
        redis_url="memory://",
        amqp_url="memory://",
        database_url=f"sqlite+aiosqlite:///{tmp_path}/client.sqlite3",
        jwt_secret=SECRET,
        allowed_origins=url,
        max_stream_length=KEPT,
        drain_seconds=0,
    )
    server = uvicorn.Server(uvicorn.Config(create_app(settings, realtime), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the BFF did not start"
            assert time.monotonic() < deadline, "the BFF did not start in time"
            time.sleep(0.02)
        yield url
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive(), "the BFF did not stop"


def test_the_client_knows_every_close_code() -> None:
    source = (CLIENT / "core" / "close-codes.js").read_text(encoding="utf-8")
    constants = re.findall(r"^export const ([A-Z_]+) = (\d{4});$", source, re.MULTILINE)
    named = {name: int(code) for name, code in constants}
    assert {code.name: code.value for code in CloseCode}.items() <= named.items()


def test_the_types_of_the_client_know_every_error_code() -> None:
    source = (CLIENT / "bff-client.d.ts").read_text(encoding="utf-8")
    union = re.search(r"^export type BffErrorCode =\n(.+?);$", source, re.MULTILINE | re.DOTALL)
    assert union is not None
    named = re.findall(r'"(\w+)"', union[1])
    assert sorted(named) == sorted([*Code, "connection_lost", "unreadable"])


def test_files_of_the_client_are_short() -> None:
    files = [path for path in CLIENT.rglob("*.js") if "node_modules" not in path.parts]
    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in files}
    assert len(lines) > 10
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def run(file: str, **variables: str) -> None:
    """Run one file of Node tests; its report is the message of a failure."""
    command = [*node.needed_websocket_command(), "--test", "--test-reporter=spec", file]
    node.output_of(command, cwd=HERE, variables=variables)


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_the_client_with_a_scripted_socket(file: str) -> None:
    run(file)


def test_the_client_with_a_running_bff(bff_url: str) -> None:
    run("live.mjs", BFF_URL=bff_url, SECRET=SECRET, KEPT=str(KEPT))

"""The private parts of libraries in `bff/COUPLINGS.md` are where the engine expects them.

A test that fails names the part that moved. Then read the library's changes, adapt the module that
COUPLINGS.md names, and run its tests.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq import Channel
from aiormq.abc import AbstractConnection as AmqpConnection
from aiormq.connection import Connection, TransportFactory
from bff.mesh.rabbitmq import connection as rabbitmq_connection
from bff.redis import client as redis_client
from bff.settings import Settings
from bff.testing import RunningBff
from cookiecutter.config import get_user_config  # type: ignore[import-untyped]
from cookiecutter.repository import determine_repo_dir  # type: ignore[import-untyped]
from fastapi import FastAPI
from jose.backends.native import HMACKey
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import AbstractConnection, ConnectionPool, DefaultParser
from redis.exceptions import ReadOnlyError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server, ServerState
from uvicorn.supervisors import Multiprocess, multiprocess

PAGE = Path(rabbitmq_connection.__file__).parents[2] / "COUPLINGS.md"
TESTS = Path(__file__).parent


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def has(owner: object, *names: str) -> None:
    for name in names:
        assert hasattr(owner, name), f"{owner!r} no longer has {name}: see bff/COUPLINGS.md"


def takes(function: Callable[..., Any], *names: str) -> None:
    missing = [name for name in names if name not in parameters(function)]
    assert not missing, f"{function.__qualname__} no longer takes {missing}: see bff/COUPLINGS.md"


# uvicorn. The HTTP protocol class is guarded by a digest in test_protocol.py.


def test_uvicorns_server_state() -> None:
    state = ServerState()
    for name, kind in {"connections": set, "tasks": set, "default_headers": list}.items():
        assert isinstance(getattr(state, name, None), kind), (
            f"uvicorn's ServerState.{name} is no longer a {kind.__name__}: see bff/COUPLINGS.md"
        )


def test_uvicorns_http_protocol() -> None:
    takes(HttpToolsProtocol.__init__, "config", "server_state", "app_state", "_loop")
    has(HttpToolsProtocol, "handle_websocket_upgrade", "on_message_begin", "on_headers_complete")
    has(HttpToolsProtocol, "on_body", "on_message_complete", "data_received", "connection_lost")
    has(HttpToolsProtocol, "_should_upgrade", "_unsupported_upgrade_warning")
    takes(HttpToolsProtocol._start_asgi_task, "cycle", "app")


def test_uvicorns_worker_process() -> None:
    has(multiprocess.Process, "server", "join", "pid")
    source = inspect.getsource(multiprocess.Process)
    assert "self._server: Server | None = None" in source, (
        "uvicorn's worker Process no longer keeps its server in _server: see bff/COUPLINGS.md"
    )
    assert re.search(r"\bProcess\(", inspect.getsource(Multiprocess)), (
        "uvicorn's Multiprocess no longer creates its workers with the module's Process: "
        "see bff/COUPLINGS.md"
    )
    has(Multiprocess, "terminate_all")
    assert "self.sockets = sockets" in inspect.getsource(Multiprocess.__init__), (
        "uvicorn's Multiprocess no longer keeps its sockets: see bff/COUPLINGS.md"
    )


def test_uvicorns_stop() -> None:
    takes(Server.shutdown, "sockets")
    source = inspect.getsource(Server)
    for part in ("self.servers = [server]", "server.close()", "connection.shutdown()"):
        assert part in source, f"uvicorn's Server no longer has {part!r}: see bff/COUPLINGS.md"


def test_uvicorns_signal_handlers() -> None:
    """uvicorn installs them with `signal.signal`, so that `getsignal` finds them."""
    has(Server, "capture_signals", "handle_exit")
    source = inspect.getsource(Server.capture_signals)
    assert "signal.signal(sig, self.handle_exit)" in source, (
        "uvicorn no longer installs its handlers with signal.signal: see bff/COUPLINGS.md"
    )
    takes(Server.handle_exit, "sig", "frame")


# redis-py


def test_redis_connections() -> None:
    """`MultiplexedConnection` takes the transport of a connection that redis-py has opened."""
    connection = Redis().connection_pool.make_connection()  # type: ignore[no-untyped-call]
    has(connection, "_reader", "_writer", "connect", "socket_timeout", "is_connected")
    has(ConnectionPool, "make_connection")
    has(AbstractConnection, "send_packed_command", "_send_packed_command", "connect_check_health")
    source = inspect.getsource(AbstractConnection.send_packed_command)
    takes(AbstractConnection.send_packed_command, "command", "check_health")
    takes(AbstractConnection._send_packed_command, "command")
    takes(AbstractConnection.connect_check_health, "check_health")
    takes(AbstractConnection.disconnect, "nowait")
    assert "wait_for" in source, (
        "redis-py no longer sends inside asyncio.wait_for: _CancellableConnection can go, "
        "see bff/COUPLINGS.md"
    )


def test_redis_parsers() -> None:
    has(DefaultParser, "parse_error")
    parse_error: Any = DefaultParser.parse_error
    error = parse_error("READONLY You can't write against a read only replica.")
    assert type(error) is ReadOnlyError, (
        "redis-py's parse_error no longer returns the exception of a reply: see bff/COUPLINGS.md"
    )


def test_redis_clusters() -> None:
    cluster = RedisCluster("localhost")
    has(cluster, "nodes_manager", "connection_kwargs", "startup_nodes", "get_node_from_key")
    has(RedisCluster, "initialize")
    has(NodesManager, "initialize")
    takes(RedisCluster.initialize, "last_failed_node_name")
    takes(NodesManager.initialize, "last_failed_node_name")
    has(ClusterNode("localhost", 7000), "connection_class", "disconnect_free_connections", "name")
    has(cluster, "get_primaries", "pubsub")


def test_redis_sentinels() -> None:
    (client,) = Sentinel([("localhost", 26379)]).sentinels  # type: ignore[no-untyped-call]
    has(client.connection_pool, "connection_class")


# aiormq and aio-pika


def test_aiormqs_transport_factory() -> None:
    takes(Connection.__init__, "transport_factory")
    has(TransportFactory, "create")
    assert parameters(TransportFactory.create)[:2] == ["self", "url"], (
        "aiormq's TransportFactory.create has another signature: see bff/COUPLINGS.md"
    )
    source = inspect.getsource(aio_pika.Connection)
    assert "**self.kwargs" in source, (
        "aio-pika no longer passes Connection.kwargs on to aiormq: see bff/COUPLINGS.md"
    )
    assert "transport" in inspect.get_annotations(aio_pika.Connection) or (
        "self.transport" in source
    ), "aio-pika's Connection no longer has transport: see bff/COUPLINGS.md"
    assert "_transport_factory.create(" in inspect.getsource(Connection), (
        "aiormq no longer connects with its transport_factory: see bff/COUPLINGS.md"
    )


def test_aiormqs_connections_and_channels() -> None:
    annotations = inspect.get_annotations(AmqpConnection)
    assert "connection_tune" in annotations, (
        "aiormq's connection no longer has connection_tune: see bff/COUPLINGS.md"
    )
    has(AmqpConnection, "ready", "channel")
    assert "on_consumer_cancel_callbacks" in inspect.getsource(Channel), (
        "aiormq's Channel no longer has on_consumer_cancel_callbacks: see bff/COUPLINGS.md"
    )


def test_aiormqs_loggers() -> None:
    """They would log bodies of messages."""
    for name in ("aiormq.connection", "aio_pika.connection"):
        assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL), (
            f"the logger {name} is not silenced: see bff/COUPLINGS.md"
        )


async def test_asyncios_stream_reader_buffer() -> None:
    reader = asyncio.StreamReader()
    has(reader, "_buffer")
    reader.feed_data(b"-ERR max number of clients reached\r\n")
    reader.set_exception(ConnectionResetError())
    assert "max number of clients" in redis_client._refusal(reader), (
        "asyncio's StreamReader no longer keeps what it has read in _buffer: see bff/COUPLINGS.md"
    )


# python-jose, websockets, Starlette and FastAPI, cookiecutter


def test_joses_hmac_key() -> None:
    takes(HMACKey.__init__, "key", "algorithm")
    has(HMACKey("secret", "HS256"), "prepared_key")
    assert HMACKey("secret", "HS256").prepared_key == b"secret", (
        "python-jose's HMACKey no longer keeps its secret in prepared_key: see bff/COUPLINGS.md"
    )


def test_python_jose_needs_cryptography_only() -> None:
    program = [sys.executable, "-m", "tests.engine.auth.every_algorithm"]
    path = os.pathsep.join(map(str, (PAGE.parents[1], TESTS.parents[1])))
    done = subprocess.run(
        program, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["looked for:"], (
        "python-jose imports a package that the locks leave out (see bff/COUPLINGS.md), or the app "
        "does not start:\n" + done.stdout + done.stderr
    )


def test_websockets_mask_function() -> None:
    for name in ("websockets.speedups", "websockets.utils"):
        apply_mask = getattr(pytest.importorskip(name), "apply_mask", None)
        assert apply_mask is not None, f"{name} no longer has apply_mask: see bff/COUPLINGS.md"
        assert apply_mask(b"\x01\x02\x03\x04\x05", b"\x01\x02\x03\x04") == b"\0\0\0\0\x04", (
            f"{name}.apply_mask(data, mask) has changed: see bff/COUPLINGS.md"
        )


async def test_fastapis_limit_of_request_bodies(bff: RunningBff, settings: Settings) -> None:
    has(FastAPI(), "max_body_size")
    async with bff.http() as http:
        response = await http.post("/rpc/echo/say", content=bytes(settings.max_body_bytes + 1))
    assert response.status_code == 413, (
        "FastAPI no longer enforces app.max_body_size set after the app was created: "
        "see bff/COUPLINGS.md"
    )


def test_cookiecutters_repository_functions() -> None:
    expected = ["template", "abbreviations", "clone_to_dir", "checkout", "no_input"]
    assert parameters(determine_repo_dir)[:5] == expected, (
        "cookiecutter's determine_repo_dir has another signature: see bff/COUPLINGS.md"
    )
    assert "abbreviations" in get_user_config(default_config=True), (
        "cookiecutter's user config has no abbreviations: see bff/COUPLINGS.md"
    )


# The page


def test_the_page_names_tests_and_modules_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    defined = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert tests
    assert {name for name in tests if f"def {name}(" not in defined} == set()
    modules = re.findall(r"`((?:\w+/)*\w+\.py)`", text)
    places = (PAGE.parent, PAGE.parents[1], TESTS)
    assert [name for name in modules if not any((at / name).is_file() for at in places)] == []


def test_the_page_has_the_versions_that_are_allowed() -> None:
    """Those of the engine; cookiecutter is a tool of the project."""
    named = {"redis-py": "redis"}
    table = PAGE.read_text(encoding="utf-8").partition("## Tried versions")[2]
    rows = re.findall(r"^\| ([\w-]+) \|.*\| `([^`]+)` \|$", table, flags=re.MULTILINE)
    listed = {named.get(name, name.lower()): allowed for name, allowed in rows}
    del listed["cookiecutter"]
    lines = PAGE.with_name("requirements.in").read_text(encoding="utf-8").splitlines()
    required = dict(
        re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?([<>=][^;]*)", line)[0]
        for line in lines
        if line[:1].isalpha()
    )
    assert listed
    assert {name: required[name].strip() for name in listed} == listed


def test_every_test_here_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    here = re.findall(r"def (test_\w+)\(", Path(__file__).read_text(encoding="utf-8"))
    checks = [name for name in here if "page" not in name]
    assert [name for name in checks if f"`{name}`" not in text] == []

"""The files for deployment: what they promise, checked with the real nginx where it can be."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from tests.baked import BakedProject
from tests.servers import nginx
from tests.servers.server import free_port

DEADLINE = 30
ENGINES = {"redis", "rabbitmq", "postgres"}
INSTANCES = {"bff-1", "bff-2"}


@pytest.fixture
def compose(default: BakedProject) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(default.read("compose.yaml"))
    return loaded


def test_compose_runs_two_instances_with_everything_they_need(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == INSTANCES | ENGINES | {"nginx", "migrate", "orders"}
    for name, service in compose["services"].items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name


def test_everything_that_serves_says_whether_it_is_well(
    compose: dict[str, Any], default: BakedProject
) -> None:
    for name in ENGINES | {"nginx"}:
        assert compose["services"][name]["healthcheck"]["test"], name
    assert re.search(r"^HEALTHCHECK .*\n.*/health/live", default.read("Dockerfile"), flags=re.M)


@pytest.mark.parametrize("instance", sorted(INSTANCES))
def test_an_instance_starts_after_its_engines_and_the_migration(
    compose: dict[str, Any], instance: str
) -> None:
    needs = compose["services"][instance]["depends_on"]
    conditions = {name: need["condition"] for name, need in needs.items()}
    healthy = dict.fromkeys(ENGINES, "service_healthy")
    assert conditions == healthy | {"migrate": "service_completed_successfully"}


@pytest.mark.parametrize("instance", sorted(INSTANCES))
def test_a_rolling_update_does_not_cut_the_drain_short(
    compose: dict[str, Any], default: BakedProject, instance: str
) -> None:
    (drain,) = re.findall(r"^DRAIN_SECONDS=(\d+)$", default.read(".env.example"), flags=re.M)
    grace = compose["services"][instance]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= int(drain) + 15


def test_rabbitmq_is_one_that_nuropb_services_can_live_with(compose: dict[str, Any]) -> None:
    version = re.match(r"rabbitmq:(\d+)\.(\d+)", compose["services"]["rabbitmq"]["image"])
    assert version
    assert (3, 13) <= (int(version[1]), int(version[2])) <= (4, 2)


def test_no_secret_is_written_down_and_none_has_a_default(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for value in _strings(service):
            for name, default in re.findall(r"\$\{(\w+)(:?[-?])?", value):
                assert default == ":?" or not name.endswith(("_PASSWORD", "_SECRET"))
        for name, value in service.get("environment", {}).items():
            if re.search("PASS|SECRET|_URL$", name):
                assert "${" in value, name


def test_engines_are_published_to_this_machine_alone(compose: dict[str, Any]) -> None:
    for name in ENGINES | INSTANCES:
        for port in compose["services"][name].get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_compose_settings_are_good_for_production(
    compose: dict[str, Any], default: BakedProject
) -> None:
    variables = dict(
        line.split("=", 1) for line in default.read(".env").splitlines() if re.match(r"\w+=", line)
    )

    def filled(match: re.Match[str]) -> str:
        return variables[match[1]]

    values = {
        name: re.sub(r"\$\{(\w+)[^}]*\}", filled, value)
        for name, value in compose["services"]["bff-1"]["environment"].items()
    }
    done = default.run(
        sys.executable, "-c", "from app.settings import Settings; Settings()", **values
    )
    assert done.returncode == 0, done.stdout


def test_the_image_installs_the_lock_and_runs_as_nobody_special(default: BakedProject) -> None:
    build, run = re.split(r"^FROM python:.*$", default.read("Dockerfile"), flags=re.M)[1:]
    assert "--require-hashes" in build
    assert "pip install" not in run
    assert re.search(r"^USER [1-9]\d*$", run, flags=re.M)
    assert run.rindex("USER ") < run.rindex("CMD ")


def test_the_image_is_sent_what_it_copies_and_no_secrets(default: BakedProject) -> None:
    lines = default.read(".dockerignore").splitlines()
    assert "*" in lines
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert {"app", "bff", "client", "migrations", "requirements.lock", "deploy/bff"} <= sent
    assert ".env" not in sent
    for name in sent:
        assert (default.path / name).exists(), name


def test_the_image_s_bff_runs_without_being_installed(default: BakedProject) -> None:
    bin_folder = Path(sys.executable).parent
    done = default.run(
        "sh",
        "deploy/bff",
        "--help",
        PATH=f"{bin_folder}:/usr/bin:/bin",
        PYTHONPATH=str(default.path),
    )
    assert done.returncode == 0, done.stdout
    assert "serve" in done.stdout


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [str(value)]


# --- nginx ---------------------------------------------------------------------------------------


def test_nginx_takes_its_configuration(default: BakedProject, tmp_path: Path) -> None:
    text = default.read("deploy/nginx.conf")
    configuration = nginx.local_configuration(text, tmp_path, free_port(), free_port())
    done = subprocess.run(
        [nginx.program(), "-t", "-p", tmp_path, "-c", configuration],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


Proxied = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def proxied(default: BakedProject, tmp_path: Path) -> Proxied:
    """nginx in front of servers that the test gives: `async with proxied(server) as address`."""

    def run(*servers: Server) -> AbstractAsyncContextManager[str]:
        ports = (next(iter(server.sockets)).getsockname()[1] for server in servers)
        return nginx.before(default.read("deploy/nginx.conf"), tmp_path, *ports)

    return run


async def test_nginx_lets_sockets_through_and_believes_no_client(
    proxied: Proxied, tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(dict(connection.request.headers.raw_items()))
        async for message in connection:
            await connection.send(message)

    async with (
        serve(echo, "127.0.0.1", 0) as server,
        proxied(server) as address,
        asyncio.timeout(DEADLINE),
        connect(
            f"ws://{address}/ws?ticket=a-secret-ticket",
            additional_headers={"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"},
        ) as socket,
    ):
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.close(4001)
    (headers,) = seen
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["Host"] == address
    log = (tmp_path / "output.log").read_text()
    assert "GET /ws" in log
    assert "a-secret-ticket" not in log


async def test_nginx_passes_requests_on_and_keeps_metrics_inside(proxied: Proxied) -> None:
    def answer(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.OK, request.path)

    async def unused(_: ServerConnection) -> None:
        raise AssertionError

    async with (
        serve(unused, "127.0.0.1", 0, process_request=answer) as server,
        proxied(server) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE) as client,
    ):
        assert (await client.get("/health/live")).text == "/health/live"
        assert (await client.get("/metrics")).status_code == HTTPStatus.NOT_FOUND


async def open_socket(address: str) -> None:
    async with connect(f"ws://{address}/ws") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


async def open_stream(address: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await client.get("/events?topics=tea")).text == "data: hello"


@pytest.mark.parametrize("opens", [open_socket, open_stream])
async def test_nginx_brings_what_a_draining_instance_refuses_to_another(
    proxied: Proxied, opens: Callable[[str], Awaitable[None]]
) -> None:
    refused = 0

    def refuse(connection: ServerConnection, _: Request) -> Response:
        nonlocal refused
        refused += 1
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining")

    def stream(connection: ServerConnection, request: Request) -> Response | None:
        is_stream = request.path.startswith("/events?")
        return connection.respond(HTTPStatus.OK, "data: hello") if is_stream else None

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with (
        serve(echo, "127.0.0.1", 0, process_request=refuse) as drains,
        serve(echo, "127.0.0.1", 0, process_request=stream) as stays,
        proxied(drains, stays) as address,
        asyncio.timeout(DEADLINE),
    ):
        for _ in range(4):
            await opens(address)
    assert refused

"""The files for deployment: what they promise, checked with the real nginx where it can be."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from tests.baked import BakedProject
from tests.servers import nginx
from tests.servers.server import free_port

DEADLINE = 30
NGINX = ("nginx.conf", "nginx-tls.conf")
ENGINES = {"redis", "rabbitmq", "postgres"}
INSTANCES = {"bff-1", "bff-2"}
BUILT = INSTANCES | {"migrate", "orders"}
"""The services that run the project's image."""
HTTP_SECONDS = 15
"""What an instance needs beside DRAIN_SECONDS: requests, and peers that do not read."""


@pytest.fixture
def compose(default: BakedProject) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(default.read("compose.yaml"))
    return loaded


def test_compose_runs_two_instances_with_everything_they_need(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == BUILT | ENGINES | {"nginx"}
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


def test_one_service_builds_the_image_and_none_takes_it_from_a_registry(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert {services[name]["image"] for name in BUILT} == {"my-bff:latest"}
    assert [name for name in services if "build" in services[name]] == ["migrate"]
    for name in BUILT - {"migrate"}:
        assert services[name]["pull_policy"] == "never", name
        assert "migrate" in services[name]["depends_on"], name


def test_what_needs_no_rights_has_none(compose: dict[str, Any]) -> None:
    for name in BUILT | {"nginx"}:
        service = compose["services"][name]
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name
    for name, service in compose["services"].items():
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_only_nginx_is_published(compose: dict[str, Any], default: BakedProject) -> None:
    assert [name for name, service in compose["services"].items() if "ports" in service] == [
        "nginx"
    ]
    more = yaml.safe_load(default.read("deploy/compose-publish.yaml"))["services"]
    assert set(more) <= ENGINES
    for service in more.values():
        for port in service["ports"]:
            address, published, inside = re.split(r":(?!-)", port)
            assert address == "127.0.0.1"
            assert re.fullmatch(rf"\$\{{PUBLISHED_\w+:-{inside}\}}", published), port


def test_settings_of_env_are_honoured(compose: dict[str, Any]) -> None:
    """What compose sets itself wins over `.env` in silence: nothing that an operator sets."""
    for name in INSTANCES | {"migrate"}:
        service = compose["services"][name]
        assert service["env_file"] == ".env"
        assert set(service["environment"]) == {
            "ENVIRONMENT",
            "REDIS_URL",
            "AMQP_URL",
            "DATABASE_URL",
            "FORWARDED_ALLOW_IPS",
        }


def test_the_example_s_service_gets_no_secret_of_the_bff(compose: dict[str, Any]) -> None:
    service = compose["services"]["orders"]
    assert "env_file" not in service
    secrets = {name for text in _strings(service) for name in re.findall(r"\$\{(\w+)", text)}
    assert secrets == {"RABBITMQ_PASSWORD", "LOG_LEVEL", "LOG_FORMAT"}


def test_new_passwords_reach_old_volumes(default: BakedProject, tmp_path: Path) -> None:
    """`make up` sets what `.env` has, before anything connects."""
    docker, log = tmp_path / "bin" / "docker", tmp_path / "log"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n{{ echo "docker $*"; cat; }} >>{log}\n')
    docker.chmod(0o755)
    path = f"{docker.parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["make", "up"],
        cwd=default.path,
        env={"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = log.read_text()
    order = ["up --detach --wait postgres rabbitmq", "exec -T postgres", "ALTER ROLE bff PASSWORD"]
    order += ["exec -T rabbitmq", "change_password bff", "up --build --detach --wait"]
    places = [told.index(text) for text in order]
    assert places == sorted(places)


def test_times_that_depend_on_each_other_agree(
    compose: dict[str, Any], default: BakedProject
) -> None:
    """DRAIN_SECONDS is shorter than any kill, and a proxy waits longer than a heartbeat."""
    done = default.run(
        sys.executable,
        "-c",
        "from bff import Settings; s = {n: f.default for n, f in Settings.model_fields.items()};"
        "print(s['drain_seconds'], s['ping_interval_seconds'], s['ping_timeout_seconds'])",
    )
    drain, ping, timeout = map(float, done.stdout.split())
    for file in (".env.example", "deploy/kubernetes/settings.env"):
        assert re.findall(r"^DRAIN_SECONDS=(\d+)$", default.read(file), re.M) == [f"{drain:g}"]
    for instance in INSTANCES:
        grace = compose["services"][instance]["stop_grace_period"]
        assert seconds(grace) >= drain + HTTP_SECONDS
    (stop,) = re.findall(r"^TimeoutStopSec=(.+)$", default.read("deploy/bff@.service"), re.M)
    assert seconds(stop) >= drain + HTTP_SECONDS
    pod = yaml.safe_load(default.read("deploy/kubernetes/deployment.yaml"))["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    command, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + HTTP_SECONDS + int(pause)
    for name in NGINX:
        text = default.read(f"deploy/{name}")
        for direction in ("read", "send"):
            (waits,) = re.findall(rf"^ +proxy_{direction}_timeout (.+);$", text, re.M)
            assert seconds(waits) >= 2 * (ping + timeout)
        assert f"({ping:g} + {timeout:g})" in text
    kill = f"{drain + HTTP_SECONDS:g}"
    page = default.read("docs/operate.md").replace("\n", " ")
    for said in (f"plus {HTTP_SECONDS}**", f"period: {kill}s`", f"StopSec={kill}`"):
        assert said in page, said
    assert f"terminationGracePeriodSeconds: {float(kill) + int(pause):g}`" in page
    assert f"`preStop` of {pause} s" in page


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


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


def test_compose_settings_are_good_for_production(
    compose: dict[str, Any], default: BakedProject
) -> None:
    variables = dict(
        line.split("=", 1) for line in default.read(".env").splitlines() if re.match(r"\w+=", line)
    )

    def filled(match: re.Match[str]) -> str:
        return variables[match[1]]

    values = variables | {
        name: re.sub(r"\$\{(\w+)[^}]*\}", filled, value)
        for name, value in compose["services"]["bff-1"]["environment"].items()
    }
    done = default.run(
        sys.executable, "-c", "from app.settings import Settings; Settings()", **values
    )
    assert done.returncode == 0, done.stdout


def test_the_image_installs_the_lock_and_runs_as_nobody_special(default: BakedProject) -> None:
    build, run = re.split(r"^FROM python:.*$", default.read("Dockerfile"), flags=re.M)[1:]
    assert "--no-deps --require-hashes" in build
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


def test_the_rights_in_redis_cover_every_script(default: BakedProject) -> None:
    *_, rules = default.read("deploy/redis-acl.conf").splitlines()
    allowed = {rule.upper() for rule in re.findall(r" \+(\S+)", rules)}
    assert {"~my-bff:*", "&my-bff:*", "-@all"} <= set(rules.split())
    scripts = [name for name in default.files() if name.endswith(".lua")]
    assert scripts
    for name in scripts:
        called = {
            call.upper() for call in re.findall(r"redis\.p?call\('(\w+)'", default.read(name))
        }
        assert called <= allowed, name


# --- nginx ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NGINX)
def test_nginx_takes_its_configuration(default: BakedProject, tmp_path: Path, name: str) -> None:
    text = default.read(f"deploy/{name}")
    make_certificate(tmp_path)
    configuration = nginx.local_configuration(text, tmp_path, free_port(), free_port())
    done = subprocess.run(
        [nginx.program(), "-t", "-p", tmp_path, "-c", configuration],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_both_configurations_of_nginx_treat_requests_alike(default: BakedProject) -> None:
    limits, routes, upgrades = (
        {re.sub(r"\s+", " ", re.split(begin, default.read(f"deploy/{name}"))[1]) for name in NGINX}
        for begin in (
            r"(?s)(    client_max_body_size.*limit_conn connections \d+;)",
            r"(?s)(\n +# Not for the public.*)",
            r"(?s)( map \$http_upgrade .*? map \$upgrade .*?\})",
        )
    )
    assert len(limits) == len(routes) == len(upgrades) == 1
    text = limits.pop() + routes.pop()
    for directive in ("limit_conn", "limit_req", "client_header_timeout", "client_body_timeout"):
        assert f"{directive} " in text


def make_certificate(folder: Path) -> Path:
    """A certificate for `localhost` that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path = folder / "fullchain.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def test_nginx_ends_tls_and_sends_others_there(default: BakedProject, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    seen: list[str] = []

    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers["X-Forwarded-Proto"])
        async for message in connection:
            await connection.send(message)

    text = default.read("deploy/nginx-tls.conf")
    async with serve(echo, "127.0.0.1", 0) as server, asyncio.timeout(DEADLINE):
        port = next(iter(server.sockets)).getsockname()[1]
        async with nginx.before(text, tmp_path, port) as address:
            port = int(address.rpartition(":")[2])
            tls = ssl.create_default_context(cafile=str(certificate))
            async with connect(f"wss://localhost:{port}/ws?ticket=secret", ssl=tls) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
            (plain,) = re.findall(
                r"listen (127\.0\.0\.1:\d+);", (tmp_path / "nginx.conf").read_text()
            )
            async with httpx2.AsyncClient() as client:
                answer = await client.get(f"http://{plain}/ws?ticket=secret")
    assert seen == ["https"]
    assert answer.status_code == HTTPStatus.PERMANENT_REDIRECT
    assert answer.headers["Location"] == "https://127.0.0.1/ws"
    assert "GET /ws" in (tmp_path / "access.log").read_text()
    for name in ("access.log", "error.log", "output.log"):
        assert "secret" not in (tmp_path / name).read_text(), name


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
        httpx2.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE) as client,
    ):
        assert (await client.get("/health/live")).text == "/health/live"
        assert (await client.get("/metrics")).status_code == HTTPStatus.NOT_FOUND


async def open_socket(address: str) -> None:
    async with connect(f"ws://{address}/ws") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


async def open_stream(address: str) -> None:
    async with httpx2.AsyncClient(base_url=f"http://{address}") as client:
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


async def test_nginx_asks_an_instance_that_is_back_when_the_other_one_begins_to_drain(
    default: BakedProject, tmp_path: Path
) -> None:
    """Both are marked as failed then: one was down within `fail_timeout`, one refuses a socket."""

    def drain(connection: ServerConnection, request: Request) -> Response:
        is_socket = "Upgrade" in request.headers
        return connection.respond(HTTPStatus(503 if is_socket else 200), "drains")

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        return None if "Upgrade" in request.headers else connection.respond(HTTPStatus.OK, "back")

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    was_down = free_port()
    async with (
        serve(echo, "127.0.0.1", 0, process_request=drain) as drains,
        nginx.before(
            default.read("deploy/nginx.conf"),
            tmp_path,
            was_down,
            next(iter(drains.sockets)).getsockname()[1],
        ) as address,
        httpx2.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE) as client,
    ):
        for _ in range(4):
            assert (await client.get("/health/live")).text == "drains"
        assert "upstream server temporarily disabled" in (tmp_path / "output.log").read_text()
        async with serve(echo, "127.0.0.1", was_down, process_request=answer):
            await open_socket(address)
            answers = [await client.get("/health/live") for _ in range(8)]
    assert {each.status_code for each in answers} == {200}
    assert "back" in {each.text for each in answers}


@pytest.mark.parametrize("name", NGINX)
def test_an_instance_keeps_idle_connections_longer_than_nginx(
    default: BakedProject, name: str
) -> None:
    (idle,) = re.findall(r"^ +keepalive_timeout (\d+)s;$", default.read(f"deploy/{name}"), re.M)
    (kept,) = re.findall(r"^_KEEP_ALIVE_SECONDS = (\d+)$", default.read("bff/server/run.py"), re.M)
    assert int(idle) < int(kept)


async def test_nginx_writes_no_ticket_when_no_instance_answers(
    default: BakedProject, tmp_path: Path
) -> None:
    text = default.read("deploy/nginx.conf")
    async with (
        nginx.before(text, tmp_path, free_port()) as address,
        httpx2.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE) as client,
    ):
        for path in ("/ws", "/events"):
            answer = await client.get(path, params={"ticket": "a-secret-ticket"})
            assert answer.status_code == HTTPStatus.BAD_GATEWAY
        assert (await client.get("/health/live")).status_code == HTTPStatus.BAD_GATEWAY
    log = (tmp_path / "output.log").read_text()
    assert re.search(r"connect\(\) failed|no live upstreams", log)
    assert re.search(r'"GET /ws" 502 .* 127\.0\.0\.1:\d+', log)
    assert "a-secret-ticket" not in log


async def test_nginx_limits_what_one_address_may_do(default: BakedProject, tmp_path: Path) -> None:
    """With numbers that a test reaches in no time: what is too much is refused with 429."""
    text = default.read("deploy/nginx.conf")
    for real, small in ((r"rate=\d+r/s", "rate=1r/m"), (r"burst=\d+", "burst=3")):
        text, found = re.subn(real, small, text)
        assert found == 2
    text, found = re.subn(r"limit_conn connections \d+", "limit_conn connections 2", text)
    assert found == 1

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.OK, "") if request.path != "/ws" else None

    async def wait(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with (
        serve(wait, "127.0.0.1", 0, process_request=answer) as server,
        nginx.before(text, tmp_path, next(iter(server.sockets)).getsockname()[1]) as address,
        httpx2.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE) as client,
    ):
        statuses = [(await client.get("/rpc/a/b")).status_code for _ in range(6)]
        assert statuses == [HTTPStatus.OK] * 4 + [HTTPStatus.TOO_MANY_REQUESTS] * 2
        async with connect(f"ws://{address}/ws"), connect(f"ws://{address}/ws"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{address}/ws")
            assert refused.value.response.status_code == HTTPStatus.TOO_MANY_REQUESTS

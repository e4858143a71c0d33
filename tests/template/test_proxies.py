"""What `docs/deploy.md` says about other proxies and a path prefix, tried on the real programs."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tests.baked import BakedProject
from tests.servers import nginx
from tests.servers.server import free_port
from tests.template.test_deploy import DEADLINE

INSIDE = ("metrics", "docs", "redoc", "openapi.json", "asyncapi.json")


@asynccontextmanager
async def echo_server(seen: list[str]) -> AsyncIterator[int]:
    """Echoes on sockets, answers its path to requests, and notes the headers of sockets."""

    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.path)
        seen.append(connection.request.headers["X-Forwarded-For"])
        async for message in connection:
            await connection.send(message)

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        return connection.respond(HTTPStatus.OK, request.path)

    async with serve(echo, "127.0.0.1", 0, process_request=answer) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def check(address: str, prefix: str, seen: list[str]) -> None:
    """Sockets, event streams and requests come through; what is internal does not."""
    async with httpx2.AsyncClient(base_url=f"http://{address}{prefix}", timeout=DEADLINE) as http:
        for path in ("/health/live", "/events?topics=tea"):
            assert (await http.get(path)).text == path
        for name in INSIDE:
            assert (await http.get(f"/{name}")).status_code == HTTPStatus.NOT_FOUND, name
    url = f"ws://{address}{prefix}/ws?ticket=a-secret-ticket"
    async with (
        asyncio.timeout(DEADLINE),
        connect(url, additional_headers={"X-Forwarded-For": "6.6.6.6"}) as socket,
    ):
        await socket.send("hello")
        assert await socket.recv() == "hello"
    assert seen == ["/ws?ticket=a-secret-ticket", "127.0.0.1"]


def block(page: str, language: str, beginning: str) -> str:
    """The code block of a page that begins so."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)
    (found,) = [text for text in blocks if text.startswith(beginning)]
    return str(found)


async def test_nginx_behind_a_prefix(default: BakedProject, tmp_path: Path) -> None:
    """The page's three beginnings replace those of nginx.conf, and its `proxy_pass`."""
    heads = re.split(
        r"^(?=location)", block(default.read("docs/deploy.md"), "nginx", "location"), flags=re.M
    )[1:]
    text = default.read("deploy/nginx.conf")
    parts = re.split(r"^ *location .*\{\n", text, flags=re.M)
    assert len(parts) == len(heads) + 1
    whole = parts[0]
    for head, rest in zip(heads, parts[1:], strict=True):
        whole += head
        whole += rest.replace("proxy_pass http://bff;", "", 1) if "proxy_pass" in head else rest
    seen: list[str] = []
    async with echo_server(seen) as port, nginx.before(whole, tmp_path, port) as address:
        await check(address, "/bff", seen)


async def test_nginx_passes_no_upgrade_on_but_that_to_a_websocket(
    default: BakedProject, tmp_path: Path
) -> None:
    """What follows another one could be taken for a request, on a connection that others use."""
    text = default.read("deploy/nginx.conf")
    async with (
        echo_server([]) as port,
        nginx.before(text, tmp_path, port) as address,
        httpx2.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE) as http,
    ):
        for protocol in ("h2c", "h2c, websocket", "websockets", "TLS/1.0"):
            headers = {"Connection": "Upgrade", "Upgrade": protocol}
            assert (await http.get("/health/live", headers=headers)).text == "/health/live"
        async with asyncio.timeout(DEADLINE), connect(f"ws://{address}/ws") as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"


@pytest.mark.parametrize("prefix", ["", "/bff"])
async def test_caddy(default: BakedProject, tmp_path: Path, prefix: str) -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("there is no caddy here; on Debian: apt-get install caddy")
    text = block(default.read("docs/deploy.md"), "caddy", "shop.example {")
    port, log = free_port(), tmp_path / "access.log"
    if prefix:
        text = text.replace("\t@inside", f"\thandle_path {prefix}/* {{\n\t@inside")
        text = text.replace("\tlog {", "\t}\n\tlog {")
    seen: list[str] = []
    async with echo_server(seen) as upstream:
        text = text.replace("shop.example", f"http://127.0.0.1:{port}")
        text = text.replace("127.0.0.1:8001 127.0.0.1:8002", f"127.0.0.1:{upstream}")
        text = text.replace("\tlog {", f"\tlog {{\n\t\toutput file {log}")
        file = tmp_path / "Caddyfile"
        file.write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{text}")
        process = await asyncio.create_subprocess_exec(
            *(caddy, "run", "--config", str(file), "--adapter", "caddyfile"),
            env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(DEADLINE), httpx2.AsyncClient() as http:
                while not await _answers(http, f"http://127.0.0.1:{port}{prefix}/health/live"):
                    assert process.returncode is None, "caddy refuses its configuration"
                    await asyncio.sleep(0.05)
            await check(f"127.0.0.1:{port}", prefix, seen)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    assert "/events" in log.read_text()
    assert "a-secret-ticket" not in log.read_text()


async def _answers(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).is_success
    except httpx2.TransportError:
        return False


def test_the_health_check_of_proxies_notices_a_drain_before_the_first_socket_is_closed(
    default: BakedProject,
) -> None:
    page = default.read("docs/deploy.md")
    (drain,) = re.findall(r"^DRAIN_SECONDS=(\d+)$", default.read(".env.example"), re.M)
    first_close = min(float(drain) / 10, 3)
    (caddy,) = re.findall(r"health_interval (\d+)s", page)
    (traefik,) = re.findall(r"healthcheck.interval: (\d+)s", page)
    for interval in (caddy, traefik):
        assert 2 * int(interval) <= first_close


def test_the_labels_for_traefik_are_yaml_and_keep_inside_what_nginx_does(
    default: BakedProject,
) -> None:
    """There is no Traefik in Debian to try them with."""
    blocks = re.findall(r"^```yaml\n(traefik.*?)^```$", default.read("docs/deploy.md"), re.M | re.S)
    for labels in map(yaml.safe_load, blocks):
        rule = labels["traefik.http.routers.shop.rule"]
        (inside,) = re.findall(r"!PathRegexp\(`(.+?)`\)", rule)
        prefix = "/bff" if "PathPrefix(`/bff`)" in rule else ""
        for name in INSIDE:
            assert re.match(inside, f"{prefix}/{name}")
        assert not re.match(inside, f"{prefix}/events")
    assert len(blocks) == 2

"""nginx with a project's own configuration, before servers of this machine."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers import programs
from tests.servers.server import free_port

_SECONDS = 30


def program() -> Path:
    """Where nginx is.

    Raises:
        ServerError: there is none, and it cannot be installed.
    """
    found = programs.provide("nginx", container=False)
    assert found is not None
    return found


def local_configuration(text: str, folder: Path, port: int, *upstreams: int) -> Path:
    """`deploy/nginx.conf` or `nginx-tls.conf` with free ports, and paths in `folder`.

    `resolve` goes with the names in compose: only nginx from 1.27.3 on knows it, Debian's is older.
    TLS takes `folder/fullchain.pem` and `folder/privkey.pem`.
    """
    servers = (f"server 127.0.0.1:{upstream}" for upstream in itertools.cycle(upstreams))
    text, found = re.subn(
        r"server (bff-[12]:8000 resolve|127\.0\.0\.1:800[12])", lambda _: next(servers), text
    )
    assert found == 4
    text, found = re.subn(r"listen (?:8080|443)\b", f"listen 127.0.0.1:{port}", text)
    assert found == 1
    text = text.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
    text = re.sub(r"(?<=\s)/(tmp|run|var/log/nginx|etc/nginx/tls)/", f"{folder}/", text)
    if "client_body_temp_path" not in text:
        text = text.replace("http {\n", f"http {{\n{_temporary_files(folder)}", 1)
    written = folder / "nginx.conf"
    written.write_text(text)
    return written


def _temporary_files(folder: Path) -> str:
    """Where nginx' own default is no place that everybody may write to."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"    {kind}_temp_path {folder}/nginx-{kind};\n" for kind in kinds)


@asynccontextmanager
async def before(text: str, folder: Path, *upstreams: int) -> AsyncIterator[str]:
    """Run it before these ports; gives its address. What it writes goes to `output.log`."""
    port = free_port()
    configuration = local_configuration(text, folder, port, *upstreams)
    # Appending: nginx opens it a second time as /dev/stdout.
    with (folder / "output.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(program()), "-p", str(folder), "-c", str(configuration)),
            *("-g", "daemon off; master_process off;"),
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(_SECONDS):
            while not await _listens(port):
                await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True

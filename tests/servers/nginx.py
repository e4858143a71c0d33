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
    """`deploy/nginx.conf` with addresses of this machine instead of the names in compose. `resolve`
    goes with the names: only nginx from 1.27.3 on knows it, Debian's is older."""
    servers = (f"server 127.0.0.1:{upstream}" for upstream in itertools.cycle(upstreams))
    text, found = re.subn(r"server bff-[12]:8000 resolve", lambda _: next(servers), text)
    assert found == 2
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{folder}/")
    written = folder / "nginx.conf"
    written.write_text(text)
    return written


@asynccontextmanager
async def before(text: str, folder: Path, *upstreams: int) -> AsyncIterator[str]:
    """Run it before these ports; gives its address. What it writes goes to `output.log`."""
    port = free_port()
    configuration = local_configuration(text, folder, port, *upstreams)
    with (folder / "output.log").open("wb") as output:
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

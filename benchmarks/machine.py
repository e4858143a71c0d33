"""Where it was measured: the machine's shape, and the version of everything that matters."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.contestants import Stage
from benchmarks.workshop import CANDIDATES, HERE
from scripts.bake import PROJECT, ROOT

Facts = dict[str, str]

_OURS = ("fastapi", "uvicorn", "uvloop", "websockets", "redis", "hiredis", "aiormq", "orjson")
_PEERS = ("python-socketio",)
_GATEWAY = ("nuropb", "nuropb-gw", "tornado")
_ASK_SECONDS = 5
_AMQP_HELLO = b"AMQP\x00\x00\x09\x01"


def facts(stage: Stage) -> Facts:
    """Of this machine, and of the servers on the stage."""
    cores = "a core" if len(stage.cores.all) == 1 else f"{len(stage.cores.all)} cores"
    return {
        "Machine": f"{cores} of {_processor()}, {_memory_gb():.0f} GB, {platform.system()} "
        f"{platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "This template": _locked(ROOT / PROJECT / "requirements.lock", _OURS),
        "Servers": f"Redis {_redis_version(stage.redis_url)}, "
        f"RabbitMQ {_rabbitmq_version(stage.amqp_url)}",
        "Peers in Python": ", ".join(
            (
                _locked(HERE / "peers.lock", _PEERS),
                _locked(HERE / "gateway.lock", _GATEWAY),
            )
        ),
        "Peers in Node": _node(),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _locked(lock: Path, names: tuple[str, ...]) -> str:
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE))
    return ", ".join(f"{name} {pins[name]}" for name in names)


def _node() -> str:
    if (program := shutil.which("node")) is None:
        return "not here"
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    wanted = json.loads((CANDIDATES / "package.json").read_text())["dependencies"]
    return ", ".join([f"Node {version.strip()}", *(f"{name} {wanted[name]}" for name in wanted)])


def _redis_version(url: str) -> str:
    return _said(url, b"INFO server\r\n", rb"redis_version:([\w.]+)")


def _rabbitmq_version(url: str) -> str:
    """From the properties that the broker sends first (AMQP 0-9-1, `connection.start`)."""
    return _said(url, _AMQP_HELLO, rb"\x07versionS\x00\x00\x00.([\w.]+?)(?=[^\w.]|$)")


def _said(url: str, question: bytes, pattern: bytes) -> str:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=_ASK_SECONDS) as line:
        line.sendall(question)
        found, answer = None, b""
        while found is None and (part := line.recv(65536)):
            answer += part
            found = re.search(pattern, answer, re.DOTALL)
    return found[1].decode() if found else "of unknown version"

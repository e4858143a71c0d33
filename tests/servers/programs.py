"""Finds the servers' programs, and installs them on a machine without them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.server import ServerError

APT_SECONDS = 600
DOCKER_SECONDS = 20
POLICY = Path("/usr/sbin/policy-rc.d")
REFUSE_TO_START = "#!/bin/sh\nexit 101\n"

PACKAGES = {
    "redis-server": "redis-server",
    "rabbitmq-server": "rabbitmq-server",
    "postgres": "postgresql",
    "nginx": "nginx",
}
"""Program and its Debian package; the service has the name of the package."""

FOLDERS = {
    # Debian's wrapper in PATH changes user and refuses a private folder.
    "rabbitmq-server": ("/usr/lib/rabbitmq/bin",),
    "postgres": ("/usr/lib/postgresql/*/bin",),
    "nginx": ("/usr/sbin",),
}
"""Paths of programs that are not in PATH, or that are wrapped in PATH."""


def find(program: str) -> Path | None:
    """The program, the newest where several versions are installed."""
    for pattern in FOLDERS.get(program, ()):
        found = sorted(Path("/").glob(f"{pattern[1:]}/{program}"), key=_version)
        if found:
            return found[-1]
    path = shutil.which(program)
    return Path(path) if path else None


def provide(program: str, *, container: bool = True) -> Path | None:
    """The program, installed if need be; None if a container has to do (and may).

    Raises:
        ServerError: there is no way to have it here. The message is the command that helps.
    """
    if path := find(program):
        return path
    if _may_install():
        _install_missing()
        if path := find(program):
            return path
    if container and _docker_answers():
        return None
    raise ServerError(
        f"{program} is missing. Install it: "
        f"sudo apt-get install --no-install-recommends {' '.join(PACKAGES.values())}\n"
        "Or start Docker, or name running servers: TEST_REDIS_URL, TEST_AMQP_URL, "
        "TEST_DATABASE_URL."
    )


def _version(path: Path) -> list[int]:
    return [int(part) for part in path.parts if part.isdigit()]


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


@functools.cache
def _install_missing() -> None:
    """Install all missing packages at once, without starting or enabling a service."""
    packages = [package for program, package in PACKAGES.items() if find(program) is None]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    print(f"Installing {' '.join(packages)} ...", flush=True)
    with _no_service_starts():
        for command in (
            ["apt-get", "update", "--quiet"],
            ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=APT_SECONDS
            )
            if done.returncode:
                raise ServerError(
                    f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}"
                )
        for package in packages:
            subprocess.run(["update-rc.d", package, "disable"], capture_output=True)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian runs policy-rc.d before it starts a service; exit code 101 forbids it."""
    before = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
    POLICY.write_text(REFUSE_TO_START)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink()
        else:
            POLICY.write_bytes(before[0])
            POLICY.chmod(before[1])


@functools.cache
def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=DOCKER_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0

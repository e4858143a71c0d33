"""The servers of the tests: private, can be broken, installed where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import servers
from tests.servers import programs
from tests.servers.redis import RedisServer
from tests.servers.server import GivenServer, ProcessServer, ServerError, answers


def process(server: servers.Server) -> ProcessServer:
    """The same as a process; a container needs no Debian to be checked."""
    if not isinstance(server, ProcessServer):
        pytest.skip("this server runs in a container")
    return server


def test_a_private_redis_can_be_broken_and_repaired() -> None:
    server = servers.private_redis()
    try:
        local, url = process(server), server.url
        local.pause()
        assert not local.ready()
        local.resume()
        assert local.ready()
        local.kill()
        assert not local.ready()
        local.start()
        assert local.ready()
        local.restart()
        assert local.ready()
        assert local.url == url
    finally:
        server.remove()
    assert not local.folder.exists()
    assert not answers(local.port, b"PING\r\n", b"+PONG")


def test_a_server_that_does_not_start_reports_why_and_leaves_no_files() -> None:
    server = RedisServer(Path(shutil.which("false") or "/bin/false"))
    with pytest.raises(ServerError, match="false did not start"):
        server.start()
    assert not server.folder.exists()


def test_rabbitmq_obeys_its_command_line_tool(
    rabbitmq_server: servers.Server,
) -> None:
    if isinstance(rabbitmq_server, GivenServer):
        pytest.skip("TEST_AMQP_URL names a server that is not ours")
    assert "/" in rabbitmq_server.control("list_vhosts", "name").split()


def test_a_given_server_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REDIS_URL", "redis://somewhere:1234/5")
    server = servers.redis()
    assert server.url == "redis://somewhere:1234/5"
    for breaking in (server.stop, server.kill, server.pause, server.resume, server.restart):
        with pytest.raises(ServerError, match="TEST_REDIS_URL names a server that is not ours"):
            breaking()
    server.remove()


class BareMachine:
    """A machine without servers, whose apt-get is a script that notes what it is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.policy = folder / "policy-rc.d"
        self.notes = folder / "notes"
        monkeypatch.setattr(programs, "FOLDERS", {})
        monkeypatch.setattr(programs, "POLICY", self.policy)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setenv("PATH", str(self.bin))
        programs._install_missing.cache_clear()
        programs._docker_answers.cache_clear()

    def has(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def has_apt(self) -> None:
        made = " ".join(str(self.bin / program) for program in programs.PACKAGES)
        self.has(
            "apt-get",
            f'echo "apt-get $*" >> {self.notes}; [ "$1" = update ] && exit 0\n'
            f"/bin/cat {self.policy} >> {self.notes}\n"
            f"for p in {made}; do echo > $p; /bin/chmod 755 $p; done",
        )
        self.has("update-rc.d", f'echo "update-rc.d $*" >> {self.notes}')


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BareMachine:
    return BareMachine(tmp_path, monkeypatch)


@pytest.mark.parametrize("policy", [None, "#!/bin/sh\nexit 0\n"])
def test_root_on_debian_gets_the_programs_and_no_service_starts(
    machine: BareMachine, policy: str | None
) -> None:
    machine.has_apt()
    if policy is not None:
        machine.policy.write_text(policy)
    assert programs.provide("redis-server") == machine.bin / "redis-server"
    assert programs.provide("nginx") == machine.bin / "nginx"
    packages = list(programs.PACKAGES.values())
    assert machine.notes.read_text().splitlines() == [
        "apt-get update --quiet",
        f"apt-get install --quiet --yes --no-install-recommends {' '.join(packages)}",
        *programs.REFUSE_TO_START.splitlines(),
        *(f"update-rc.d {package} disable" for package in packages),
    ]
    assert (machine.policy.read_text() if machine.policy.exists() else None) == policy


def test_a_failed_installation_restores_the_policy_and_says_why(machine: BareMachine) -> None:
    machine.has("apt-get", "echo no network; exit 100")
    with pytest.raises(ServerError, match="apt-get update --quiet failed:\nno network"):
        programs.provide("redis-server")
    assert not machine.policy.exists()


def test_other_systems_use_containers_if_an_engine_is_running(
    machine: BareMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine.has_apt()
    machine.has("docker", "exit 0")
    assert programs.provide("redis-server") is None
    assert not machine.notes.exists()


def test_without_any_option_the_command_to_run_is_printed(
    machine: BareMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine.has("docker", "exit 1")
    with pytest.raises(ServerError, match="sudo apt-get install --no-install-recommends redis-"):
        programs.provide("redis-server")


def test_a_python_with_nuropb_has_it(nuropb_python: Path | None) -> None:
    if nuropb_python is None:
        pytest.skip("nuropb 0.1.8 needs Python 3.11, which is not here: see the warning")
    done = subprocess.run(
        [nuropb_python, "-c", "from importlib.metadata import version; print(version('nuropb'))"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "0.1.8", done.stderr

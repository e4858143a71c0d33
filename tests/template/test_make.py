"""The make commands, as a new user types them."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import httpx2
import pytest

from scripts.bake import ROOT, bake, bring_up_to_date
from tests.baked import InstalledProject, environment
from tests.servers.server import free_port
from tests.template.processes import INTERRUPTED, interrupt, running, wait_until_ready

SECOND_START = 60
"""Seconds. On an idle machine it takes three."""


def test_demo_serves_its_page_in_seconds_and_ends_cleanly(tmp_path: Path) -> None:
    log, port = tmp_path / "output.log", free_port()
    address = f"http://127.0.0.1:{port}"
    with running(["make", "demo", f"PORT={port}"], ROOT, log) as process:
        assert wait_until_ready(process, address, log) < SECOND_START
        page = httpx2.get(address)
        assert page.headers["content-type"].startswith("text/html")
        assert interrupt(process) in INTERRUPTED
    output = log.read_text()
    assert address in output
    assert "Traceback" not in output
    assert "make: ***" not in output


def test_make_dev_of_a_project_serves_and_ends_cleanly(
    installed: InstalledProject, tmp_path: Path
) -> None:
    log, port = tmp_path / "output.log", free_port()
    command = ["make", "dev", f"PORT={port}", f"VENV={installed.venv}"]
    with running(command, installed.path, log) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        assert interrupt(process) in INTERRUPTED
    output = log.read_text()
    assert "Traceback" not in output
    assert "make: ***" not in output


def test_demo_reports_a_busy_port_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            ["make", "demo", f"PORT={port}"],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert done.returncode != 0
    assert f"Port {port}: Address already in use. Try another: make demo PORT=" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", ""])
def test_demo_refuses_an_invalid_port(port: str) -> None:
    done = subprocess.run(
        ["make", "demo", f"PORT={port}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "is not a port" in done.stderr


@pytest.mark.parametrize("folder", [".", "{{cookiecutter.project_slug}}"])
def test_make_help_lists_every_command(folder: str) -> None:
    text = (ROOT / folder / "Makefile").read_text()
    (phony,) = [line for line in text.splitlines() if line.startswith(".PHONY:")]
    done = subprocess.run(["make"], cwd=ROOT / folder, capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    assert sorted(listed) == sorted(phony.split()[1:])


def test_a_new_bake_keeps_the_files_of_the_project(template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path / "first")
    own = {".env": "MINE=1\n", "bff.sqlite3": "data", ".venv/bin/python": "installed"}
    for name, text in own.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (project / "app" / "left_over.py").write_text("")
    (project / "Makefile").write_text("changed\n")
    untouched = (project / "pyproject.toml").stat().st_mtime_ns
    bring_up_to_date(project, bake(template, tmp_path / "second"))
    assert {name: (project / name).read_text() for name in own} == own
    assert not (project / "app" / "left_over.py").exists()
    assert "help:" in (project / "Makefile").read_text()
    assert (project / "pyproject.toml").stat().st_mtime_ns == untouched

"""`make chaos` of a project, as its owner runs it: the promise is kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.baked import InstalledProject
from tests.servers import programs

SEED = 7
SECONDS = 60


def test_a_minute_of_faults_breaks_no_promise(installed: InstalledProject, tmp_path: Path) -> None:
    for program in ("redis-server", "rabbitmq-server"):
        if programs.provide(program) is None:
            pytest.skip(f"{program} is here as a container only: chaos needs the program")
    arguments = f"--seed {SEED} --seconds {SECONDS} --folder {tmp_path}"
    done = installed.run("make", "chaos", f"VENV={installed.venv}", f"ARGS={arguments}")
    assert done.returncode == 0, done.stdout
    assert "The promise was kept." in done.stdout
    figures = dict(re.findall(r"^(\w+) +(\d+) ", done.stdout, re.MULTILINE))
    for name in ("sent", "delivered", "recovered", "lost"):
        assert int(figures[name]) > 0, done.stdout

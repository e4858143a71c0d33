"""`make chaos` over a baked project: the promise is kept."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from scripts.bake import ROOT
from tests.baked import InstalledProject, environment
from tests.servers import programs

SEED = 7
SECONDS = 60


def test_a_minute_of_faults_breaks_no_promise(installed: InstalledProject, tmp_path: Path) -> None:
    for program in ("redis-server", "rabbitmq-server"):
        if programs.provide(program) is None:
            pytest.skip(f"{program} is here as a container only: chaos needs the program")
    arguments = f"--seed {SEED} --seconds {SECONDS} --folder {tmp_path}"
    done = subprocess.run(
        ["make", "chaos", f"PROJECT={installed.path}", f"ARGS={arguments}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "The promise was kept." in done.stdout
    figures = dict(re.findall(r"^(\w+) +(\d+) ", done.stdout, re.MULTILINE))
    for name in ("sent", "delivered", "recovered", "lost"):
        assert int(figures[name]) > 0, done.stdout

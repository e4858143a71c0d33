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
LONG_RUNS = (
    (11, ""),
    (42, "--redis cluster"),
    (1815, "--redis sentinel"),
    (1848, "--workers 2"),
)
LONG_SECONDS = 300


def break_it(
    project: InstalledProject, seed: int, seconds: int, folder: Path, shape: str = ""
) -> dict[str, int]:
    """Break a project's deployment for some time; the figures of the report."""
    for program in ("redis-server", "rabbitmq-server"):
        if programs.provide(program) is None:
            pytest.skip(f"{program} is here as a container only: chaos needs the program")
    arguments = f"--seed {seed} --seconds {seconds} --folder {folder} {shape}"
    done = subprocess.run(
        ["make", "chaos", f"PROJECT={project.path}", f"ARGS={arguments}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 540,
    )
    assert done.returncode == 0, done.stdout
    assert "No violations." in done.stdout
    figures = dict(re.findall(r"^(\w+) +(\d+) ", done.stdout, re.MULTILINE))
    return {name: int(figure) for name, figure in figures.items()}


def test_a_minute_of_faults_breaks_no_promise(installed: InstalledProject, tmp_path: Path) -> None:
    figures = break_it(installed, SEED, SECONDS, tmp_path)
    for name in ("sent", "delivered", "recovered", "lost"):
        assert figures[name] > 0, figures


@pytest.mark.long
@pytest.mark.parametrize(("seed", "shape"), LONG_RUNS)
def test_five_minutes_of_faults_break_no_promise(
    installed: InstalledProject, tmp_path: Path, seed: int, shape: str
) -> None:
    figures = break_it(installed, seed, LONG_SECONDS, tmp_path, shape)
    assert figures["delivered"] > 0, figures

"""The units of a project, checked by systemd itself where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.baked import BakedProject

UNITS = ("bff@.service", "bff-migrate.service")
INSTANCE = "bff@8001.service"
MAX_EXPOSURE = 20
"""Of 100: `systemd-analyze security` divides by ten, and calls this "OK"."""
NEWER_KEYS = {"RestartSteps", "RestartMaxDelaySec"}
"""Known from systemd 254 on; older ones ignore them and say so."""


@pytest.fixture
def units(default: BakedProject, tmp_path: Path) -> list[Path]:
    """Both units with a program that exists."""
    program = tmp_path / "python"
    program.symlink_to(shutil.which("true") or "/bin/true")
    written = []
    for name in UNITS:
        text = default.read(f"deploy/{name}")
        path = tmp_path / name.replace("@", "@8001")
        path.write_text(text.replace("/srv/my-bff/.venv/bin/python", str(program)))
        written.append(path)
    return written


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is missing: Debian has it in the package systemd")
    return found


def test_systemd_understands_the_units(analyze: str, units: list[Path]) -> None:
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60
    )
    complaints = {
        line
        for line in done.stderr.splitlines()
        if str(units[0].parent) in line
        and not re.search(rf"Unknown key (name )?'({'|'.join(NEWER_KEYS)})'", line)
    }
    assert complaints == set()
    assert done.returncode == 0, done.stderr


def test_the_units_are_hardened(analyze: str, units: list[Path]) -> None:
    options = ["--offline=yes", f"--threshold={MAX_EXPOSURE}", "--no-pager"]
    for unit in units:
        done = subprocess.run(
            [analyze, "security", *options, unit], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def settings(text: str) -> dict[str, list[str]]:
    """Each key of a unit and its values."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_an_instance_is_restarted_without_end_and_migrates_nothing(default: BakedProject) -> None:
    unit = settings(default.read("deploy/bff@.service"))
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert int(unit["RestartMaxDelaySec"][0]) > int(unit["RestartSec"][0])
    assert "ExecStartPre" not in unit
    assert not {"Requires", "BindsTo"} & set(unit)


def test_the_migration_runs_when_it_is_asked_for(default: BakedProject) -> None:
    unit = settings(default.read("deploy/bff-migrate.service"))
    assert unit["Type"] == ["oneshot"]
    assert "Restart" not in unit
    assert "WantedBy" not in unit
    (command,) = unit["ExecStart"]
    assert command.endswith(" -m bff.cli migrate")


def test_both_units_are_hardened_alike(default: BakedProject) -> None:
    parts = [
        default.read(f"deploy/{name}")
        .partition("\nNoNewPrivileges=")[2]
        .partition("\n[Install]")[0]
        for name in UNITS
    ]
    assert parts[0].strip() == parts[1].strip() != ""


def test_the_units_run_commands_that_exist(default: BakedProject) -> None:
    for name in UNITS:
        (command,) = settings(default.read(f"deploy/{name}"))["ExecStart"]
        _, _, arguments = command.partition(" ")
        given = arguments.replace("%i", "8001").split()
        done = default.run(sys.executable, *given, "--help")
        assert done.returncode == 0, done.stdout

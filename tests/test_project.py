"""The generated project's own checks, run as its owner runs them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.baked import InstalledProject
from tests.own_tests import OwnTests


def tell(skips: Iterable[str]) -> None:
    """Nothing is skipped in silence."""
    for skip in skips:
        warnings.warn(f"the project's own tests: {skip}", stacklevel=2)


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_its_code_is_clean(installed: InstalledProject, command: list[str]) -> None:
    program, *arguments = command
    done = installed.run(installed.venv / "bin" / program, *arguments)
    assert done.returncode == 0, done.stdout


def test_its_tests_pass_with_embedded_engines(own_tests: OwnTests) -> None:
    """What needs a real server is skipped here, and runs in the next test."""
    tell(skip for skip in own_tests.skips_of("embedded engines") if "TEST_" not in skip)


def test_its_tests_pass_on_real_servers(own_tests: OwnTests) -> None:
    skips = own_tests.skips_of("real servers")
    assert not [skip for skip in skips if "TEST_" in skip]
    tell(skips)


@pytest.mark.parametrize("kind", ["Redis Cluster", "Redis Sentinel"])
def test_its_delivery_tests_pass_on_every_kind_of_redis(own_tests: OwnTests, kind: str) -> None:
    """What does not fit the kind, such as a proxy before a cluster, is skipped and says so."""
    tell(own_tests.skips_of(kind))


def test_its_wheel_holds_scripts_pages_and_migrations(
    installed: InstalledProject, tmp_path: Path
) -> None:
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    done = installed.run(installed.python, "-m", "pip", "wheel", *options, ".")
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {
        path.relative_to(installed.path).as_posix()
        for folder in ("app", "client", "migrations")
        for path in (installed.path / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert any(name.endswith(".lua") for name in wanted)
    assert wanted <= packed

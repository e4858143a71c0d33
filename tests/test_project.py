"""The checks of a generated project, run as a user runs them."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.baked import InstalledProject
from tests.servers import Server


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_its_code_is_clean(installed: InstalledProject, command: list[str]) -> None:
    program, *arguments = command
    done = installed.run(installed.venv / "bin" / program, *arguments)
    assert done.returncode == 0, done.stdout


def test_its_tests_pass_with_embedded_engines(installed: InstalledProject) -> None:
    assert installed.run_tests() == []


def test_its_tests_pass_on_real_servers(
    installed: InstalledProject, redis_server: Server, rabbitmq_server: Server
) -> None:
    variables = {"TEST_REDIS_URL": redis_server.url, "TEST_AMQP_URL": rabbitmq_server.url}
    assert installed.run_tests(**variables) == []


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
        for folder in ("app", "bff", "client", "migrations")
        for path in (installed.path / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert any(name.endswith(".lua") for name in wanted)
    assert wanted <= packed

"""The example can be deleted as the README describes; everything else still works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from scripts.bake import bake
from tests.baked import BakedProject, InstalledProject
from tests.servers.server import free_port
from tests.template.processes import INTERRUPTED, interrupt, running, wait_until_ready

LINES = {
    "app/main.py": (
        "from app.development.orders_service import orders_service\n",
        "        stand_ins=[orders_service],  # services that answer in `make dev`\n",
    ),
    "app/routes/__init__.py": (" orders,", "    orders.router,\n", "    orders.realtime,\n"),
}
"""What names the example, each once."""


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    project = BakedProject(bake(template, tmp_path_factory.mktemp("without")))
    delete_the_example(project)
    return project


def delete_the_example(project: BakedProject) -> None:
    path = project.path
    (path / "app" / "routes" / "orders.py").unlink()
    shutil.rmtree(path / "app" / "development")
    for test in (path / "tests").glob("test_orders*.py"):
        test.unlink()
    for name, pieces in LINES.items():
        text = project.read(name)
        for piece in pieces:
            assert text.count(piece) == 1, (name, piece)
            text = text.replace(piece, "")
        (path / name).write_text(text)
    text = project.read("compose.yaml")
    text, removed = re.subn(r"(?m)^  # The example's .*\n  orders:\n(?:    .*\n)+\n", "", text)
    assert removed == 1
    (path / "compose.yaml").write_text(text)


def test_nothing_refers_to_it_any_more(project: BakedProject) -> None:
    for folder in ("app", "tests"):
        for path in (project.path / folder).rglob("*.py"):
            assert "orders" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    "command",
    ["ruff check .", "ruff format --check .", "mypy", "pytest -q"],
)
def test_its_lint_and_tests_pass(
    project: BakedProject, installed: InstalledProject, command: str
) -> None:
    done = project.run(installed.python, "-m", *command.split(), PYTHONPATH=str(project.path))
    assert done.returncode == 0, done.stdout


def test_compose_is_valid_without_its_service(project: BakedProject) -> None:
    services = yaml.safe_load(project.read("compose.yaml"))["services"]
    assert "orders" not in services
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name


def test_dev_serves_and_ends_cleanly(
    project: BakedProject, installed: InstalledProject, tmp_path: Path
) -> None:
    log, port = tmp_path / "output.log", free_port()
    command: list[str | Path] = [installed.python, "-m", "bff.cli", "dev", "--port", str(port)]
    with running(command, project.path, log, PYTHONPATH=str(project.path)) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        assert interrupt(process) in INTERRUPTED
    assert "Traceback" not in log.read_text()

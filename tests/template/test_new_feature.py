"""`bff new feature` in a generated project: what it writes passes lint and tests, or nothing is
written."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest
from bff.cli import main
from bff.scaffold import feature as scaffold
from bff.scaffold.feature import write
from bff.scaffold.text import Feature
from click.testing import CliRunner

from tests.baked import BakedProject, InstalledProject

OPTIONS = {
    "--expose": "list,get",
    "--method": "share",
    "--topic": "latest",
    "--event": "paid",
}
EVERYTHING = [*(part for option in OPTIONS.items() for part in option), "--table"]


@pytest.fixture
def project(installed: InstalledProject, tmp_path: Path) -> InstalledProject:
    return installed.copy(tmp_path / "my-bff")


def new(project: InstalledProject, *arguments: str) -> tuple[int, str]:
    done = project.run(project.bff, "new", "feature", *arguments, PYTHONPATH=str(project.path))
    return done.returncode, done.stdout


def contents(project: BakedProject) -> dict[str, str]:
    folders = ("app", "tests", "migrations")
    return {
        name: project.read(name)
        for name in project.files()
        if name.split("/")[0] in folders and not name.endswith(".pyc")
    }


def check(project: InstalledProject, *tests: str) -> None:
    """What `make lint test` runs; of the tests, only these."""
    for command in ("ruff check .", "ruff format --check .", "mypy app tests"):
        done = project.run(project.python, "-m", *command.split(), PYTHONPATH=str(project.path))
        assert done.returncode == 0, done.stdout
    project.run_tests("-p", "no:cacheprovider", *tests, PYTHONPATH=str(project.path))


def test_a_feature_with_everything_passes_lint_and_tests(project: InstalledProject) -> None:
    code, output = new(project, "invoices", *EVERYTHING)
    assert code == 0, output
    check(project, "tests/test_invoices.py", "tests/test_migrations.py")
    before = contents(project)
    code, output = new(project, "invoices", "--method", "other")
    assert (code, "exists already" in output) == (1, True), output
    assert contents(project) == before


REFUSED: list[tuple[list[str], str]] = [
    (["invoices"], "Say what the feature offers"),
    (["orders", "--expose", "list"], "app/routes/orders.py exists already"),
    (["admin", "--topic", "latest"], "app/routes/admin.py exists already"),
    (["in-voices", "--topic", "latest"], "is not a name"),
    (["invoices", "--method", "class"], "is not a name"),
    (["invoices", "--expose", "get", "--method", "get"], "get is named twice"),
    (["invoices", "--topic", "paid", "--event", "paid"], "is a topic and an event"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_is_refused_changes_nothing(
    default: BakedProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    reason: str,
) -> None:
    project = BakedProject(shutil.copytree(default.path, tmp_path / "my-bff"))
    monkeypatch.chdir(project.path)
    before = contents(project)
    done = CliRunner().invoke(main, ["new", "feature", *arguments])
    assert (done.exit_code, reason in done.output) == (1, True), done.output
    assert contents(project) == before


def test_a_feature_with_which_the_app_does_not_start_is_taken_back(
    project: InstalledProject,
) -> None:
    routes = project.path / "app" / "routes" / "orders.py"
    text = routes.read_text(encoding="utf-8")
    routes.write_text(f'{text}\nrealtime.emits("invoice.paid", Order)\n', encoding="utf-8")
    before = contents(project)
    code, output = new(project, "invoices", "--event", "paid")
    assert code == 1
    assert "event 'invoice.paid' is declared twice" in output
    assert contents(project) == before


def test_a_check_that_takes_too_long_is_taken_back(
    default: BakedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = BakedProject(shutil.copytree(default.path, tmp_path / "my-bff"))
    monkeypatch.chdir(project.path)
    monkeypatch.setattr(scaffold, "_TOOL_SECONDS", 0.001)
    before = contents(project)
    done = CliRunner().invoke(main, ["new", "feature", "invoices", "--topic", "latest"])
    assert (done.exit_code, "did not end within" in done.output) == (1, True), done.output
    assert contents(project) == before


@pytest.mark.parametrize("option", [["--topic", "latest"], ["--table"]], ids=["routes", "table"])
def test_outside_of_a_project_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["new", "feature", "invoices", *option])
    assert (done.exit_code, "run this in the folder of a project" in done.output) == (1, True)


@pytest.mark.long
def test_every_combination_passes_lint_and_tests(
    project: InstalledProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a feature of one project, which is checked as a whole."""
    monkeypatch.chdir(project.path)
    for chosen in product((False, True), repeat=5):
        if not any(chosen):
            continue
        wanted = (option for option, is_wanted in zip(OPTIONS, chosen, strict=False) if is_wanted)
        offers = {option[2:]: tuple(OPTIONS[option].split(",")) for option in wanted}
        write(
            Feature(
                f"kind_{''.join(str(int(one)) for one in chosen)}s",
                exposed=offers.get("expose", ()),
                methods=offers.get("method", ()),
                topics=offers.get("topic", ()),
                events=offers.get("event", ()),
                table=chosen[4],
            )
        )
    check(project, "tests")

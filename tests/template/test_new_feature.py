"""`bff new feature` in a generated project: what it writes passes lint and tests, or nothing is
written."""

from __future__ import annotations

import ast
import runpy
import shutil
from itertools import product
from pathlib import Path
from types import GenericAlias, SimpleNamespace

import pytest
from bff.cli import main
from bff.connections.declared_events import DeclaredEvent
from bff.scaffold import feature as scaffold
from bff.scaffold import text as feature_text
from bff.scaffold.feature import write
from bff.scaffold.text import Feature, module
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
    (["invoices", "--topic", "paid,latest, paid"], "paid is named twice"),
    (["invoices", "--event", "paid,paid"], "paid is named twice"),
    (["invoices", "--event", "Paid"], "is not a name"),
    ([f"i{'n' * 40}", "--table"], "is not a name"),
    (["list", "--table"], "has a meaning in the code of a feature"),
    (["events", "--method", "get"], "has a meaning in the code of a feature"),
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


# The texts, without a project


def project_of(folder: Path, routes: str, tables: str = "") -> Path:
    """As much of a project as a new feature changes."""
    files = {
        "app/routes/__init__.py": routes,
        "app/tables.py": tables or "from sqlmodel import SQLModel\n",
        "tests/test_app.py": "",
        "migrations/versions/.keep": "",
        "pyproject.toml": '[tool.alembic]\nscript_location = "%(here)s/migrations"\n',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def without_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of the app takes seconds; `test_a_feature_with_everything…` has it."""
    monkeypatch.setattr(scaffold, "_check_app", lambda: None)


LISTS = {
    "[\n    admin.realtime,\n]": ["admin", "invoices"],
    "[\n    admin.realtime,\n]  # [1]": ["admin", "invoices"],
    "[admin.realtime]": ["admin", "invoices"],
    "[admin.realtime,]": ["admin", "invoices"],
    "[admin.realtime]  # see [1], [2]": ["admin", "invoices"],
    "[\n    admin.realtime]": ["admin", "invoices"],
    "[]": ["invoices"],
    "['ä'] [:0]; REALTIME = [admin.realtime]": ["admin", "invoices"],
}


@pytest.mark.parametrize("listed", LISTS)
@pytest.mark.usefixtures("without_check")
def test_a_feature_is_listed_however_the_list_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    imports = "from app.routes import (\n    admin,\n)\nfrom bff.endpoints import rpc"
    routes = f"{imports}\n\nREALTIME = {listed}\nOTHER = [rpc.router]\n"
    monkeypatch.chdir(project_of(tmp_path, routes))
    written = write(Feature("invoices", topics=("latest",)))
    assert written == [
        Path("app/routes/invoices.py"),
        Path("tests/test_invoices.py"),
        Path("app/routes/__init__.py"),
    ]
    engines, imported, *_, found, other = ast.parse(written[-1].read_text(encoding="utf-8")).body
    assert isinstance(imported, ast.ImportFrom)
    assert [alias.name for alias in imported.names] == ["admin", "invoices"]
    assert ast.unparse(found) == f"REALTIME = [{', '.join(f'{n}.realtime' for n in LISTS[listed])}]"
    assert [ast.unparse(each) for each in (engines, other)] == [
        "from bff.endpoints import rpc",
        "OTHER = [rpc.router]",
    ]
    written[0].unlink()
    written[1].unlink()
    with pytest.raises(scaffold.Refused, match="lists invoices already"):
        write(Feature("invoices", topics=("latest",)))
    for text in ("REALTIME = []\n", "from app.routes import admin\nREALTIME = (admin,)\n"):
        written[-1].write_text(text, encoding="utf-8")
        with pytest.raises(scaffold.Refused, match="has no `from app"):
            write(Feature("invoices", topics=("latest",)))


@pytest.mark.usefixtures("without_check")
def test_each_table_has_a_migration_that_follows_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_of(tmp_path, "", '"""Tables.\n"""\nfrom sqlmodel import SQLModel\n'))
    revisions: list[tuple[object, object]] = []
    for name, one, model in (("invoices", "invoice", "InvoiceRow"), ("news", "new", "NewRow")):
        written = write(Feature(name, table=True))
        test, migration, tables = written
        assert (test, tables) == (Path(f"tests/test_{name}.py"), Path("app/tables.py"))
        facts = runpy.run_path(str(migration))
        assert migration.name == f"{facts['revision']}_add_{one}.py"
        revisions.append((facts["revision"], facts["down_revision"]))
        text = tables.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)) == "Tables.", "what was there stays"
        assert f'class {model}(SQLModel, table=True):\n    """Describe it here."""' in text
        assert text.count("import uuid") == 1
        assert f"select({model})" in test.read_text(encoding="utf-8")
        test.unlink()
        with pytest.raises(scaffold.Refused, match=f"has a class {model} already"):
            write(Feature(name, table=True))
        tables.write_text(text.replace(f"class {model}", "class Other"), encoding="utf-8")
        with pytest.raises(scaffold.Refused, match=f"has a table {one} already"):
            write(Feature(name, table=True))
        tables.write_text(text, encoding="utf-8")
    (first, none), (_, follows) = revisions
    assert (none, follows) == (None, first)
    second_head = Path("migrations/versions/other.py")
    second_head.write_text("revision = 'other'\ndown_revision = None\n", encoding="utf-8")
    with pytest.raises(scaffold.Refused, match="has several heads"):
        write(Feature("orders", table=True))


@pytest.mark.parametrize("chosen", [*product((False, True), repeat=4)], ids=str)
@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("invoices", "invoice"),
        ("price_categories", "price_category"),
        ("address", "address"),
        ("s", "s"),
    ],
)
async def test_a_feature_declares_and_tests_exactly_what_was_asked_for(
    tmp_path: Path, name: str, one: str, chosen: tuple[bool, ...]
) -> None:
    def names(is_chosen: bool, *names: str) -> tuple[str, ...]:
        return names if is_chosen else ()

    exposed = names(chosen[0], "list", "get")
    methods = names(chosen[1], "share", *names(not exposed, "list"))
    topics, events = names(chosen[2], "latest", "oldest"), names(chosen[3], "paid")
    feature = Feature(name, exposed, methods, topics, events)
    assert feature.one == one
    assert feature.is_empty is (not any(chosen))
    found = runpy.run_path(write_text(tmp_path / "feature.py", module(feature)))
    realtime = found["realtime"]
    assert {*realtime.targets} == {f"{name}.{method}" for method in (*exposed, *methods)}
    assert {*realtime.topic_policies} == {f"{name}.{topic}" for topic in topics}
    assert {handler.topic: handler.name for handler in realtime.event_handlers.values()} == {
        f"{name}.*.{event}": f"{one}_{event}" for event in events
    }
    scopes = [one.scopes for one in (*realtime.targets.values(), *realtime.topic_policies.values())]
    assert all({*each} == {name} for each in scopes)
    topic_names = [f"{name}.{topic}" for topic in topics]
    event_names = [f"{one}.{event}" for event in events]
    assert {event.name for event in realtime.declared_events()} == {*topic_names, *event_names}
    parameters = {
        method: [*realtime.targets[f"{name}.{method}"].params.model_fields] for method in exposed
    }
    assert parameters == ({"list": [], "get": [f"{one}_id"]} if exposed else {})
    model = found[one.title().replace("_", "")]
    results = {method: realtime.targets[f"{name}.{method}"].result for method in exposed}
    assert results == ({"list": GenericAlias(list, model), "get": model} if exposed else {})
    item = {f"{one}_id": "1", "user_id": "alice"}
    alice = SimpleNamespace(user_id="alice")
    if "list" in methods:
        assert await found[f"list_{name}"](None, alice) == [model(**item)]
    if "share" in methods:
        assert await found[f"share_{one}"](SimpleNamespace(**item), alice) == model(**item)
    for event in events:
        messenger = Recorder()
        await found[f"on_{one}_{event}"](SimpleNamespace(payload=item), messenger)
        assert messenger.sent == ["alice", f"{one}.{event}", *topic_names]
    if any(chosen):
        tests = runpy.run_path(
            write_text(tmp_path / "test_feature.py", feature_text.test_module(feature))
        )
        assert len([test for test in tests if test.startswith("test_")]) == (
            len(exposed) + len(methods) + len(topics) + len(events) * (1 + len(topics))
        )
        assert tests["SCOPES"] == [name]
        assert "RunningBff" in tests
        assert ("service" in tests) is bool(exposed)
        if exposed:
            assert await tests[f"list_{name}"]() == [item]
            assert await tests[f"get_{one}"]() == item


class Recorder:
    """A messenger that records for whom an event was, and which."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def to_user(self, user: str, event: DeclaredEvent) -> None:
        self.sent += [user, event.type.name]

    async def to_topic(self, event: DeclaredEvent) -> None:
        self.sent.append(event.type.name)


def write_text(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


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

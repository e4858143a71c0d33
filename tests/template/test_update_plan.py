"""`make update`, file by file: what becomes of each kind of file, and what is reported."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bff.update import git, template
from bff.update import record as records
from bff.update.__main__ import main
from bff.update.changelog import to_do
from bff.update.errors import UpdateError
from bff.update.plan import File, Plan, Planner
from bff.update.record import Owner, Record, make, owner, public_address, read
from bff.update.report import report
from bff.update.write import write
from click.testing import CliRunner

CONTEXT = {"_template": "gh:a/b", "_checkout": "main", "__year": "2020", "name": "Shop"}
NOT_THERE = "."
SHARED, ENGINE, LOCK = "deploy/nginx.conf", "bff/tasks.py", "requirements.lock"
CONFLICT = "<<<<<<< yours\nb\n=======\nc\n>>>>>>> template 1.1\n"
NEW_CONFLICT = "<<<<<<< yours\na\n=======\nb\n>>>>>>> template 1.1\n"

OUTCOMES: dict[str, dict[str, tuple[str, str]]] = {
    SHARED: {
        "a a a": ("a", ""),
        "a a b": ("b", ""),
        "a a .": (".", ""),
        "a b a": ("b", ""),
        "a b b": ("b", ""),
        "a b c": (CONFLICT, "conflicts"),
        "a b .": ("b", "kept"),
        "a . a": (".", ""),
        "a . b": (".", ""),
        "a . .": (".", ""),
        ". . a": ("a", ""),
        ". a a": ("a", ""),
        ". a b": (NEW_CONFLICT, "conflicts"),
        ". a .": ("a", ""),
    },
    ENGINE: {
        "a a a": ("a", ""),
        "a a b": ("b", ""),
        "a a .": (".", ""),
        "a b a": ("a", "changed"),
        "a b b": ("b", ""),
        "a b c": ("c", "changed"),
        "a b .": (".", "changed"),
        "a . a": ("a", "deleted"),
        "a . b": ("b", "deleted"),
        "a . .": (".", ""),
        ". . a": ("a", ""),
        ". a a": ("a", ""),
        ". a b": ("b", "added"),
        ". a .": (".", "added"),
    },
    LOCK: {
        "a a a": ("a", ""),
        "a a b": ("b", "new_locks"),
        "a a .": (".", "new_locks"),
        "a b a": ("b", ""),
        "a b b": ("b", ""),
        "a b c": ("b", "stale_locks"),
        "a b .": ("b", "kept"),
        "a . a": (".", ""),
        "a . b": (".", ""),
        "a . .": (".", ""),
        ". . a": ("a", "new_locks"),
        ". a a": ("a", ""),
        ". a b": ("a", "stale_locks"),
        ". a .": ("a", ""),
    },
}
"""By the file as the old template made it, as it is, and as the new template makes it: what it is
afterwards, and what is told about it."""


def put(folder: Path, files: Mapping[str, str]) -> Path:
    """Files with these contents; what is `NOT_THERE` is not written."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text != NOT_THERE:
            path.write_text(text, encoding="utf-8")
    return folder


def line(text: str) -> str:
    return text if text == NOT_THERE or text.endswith("\n") else f"{text}\n"


def version(number: str) -> dict[str, str]:
    return {"bff/version.py": f'"""The version."""\n\n__version__ = "{number}"\n'}


class Projects:
    """A project as the old template made it, as it is, and as the new template makes it."""

    def __init__(self, folder: Path, name: str, contents: str) -> None:
        self.name = name
        before, ours, theirs = map(line, contents.split(" "))
        self.before = put(folder / "before", {name: before, **version("1.0")})
        self.project = put(folder / "project", {name: ours, **version("1.0")})
        self.fresh = put(folder / "fresh", {name: theirs, **version("1.1")})
        self.old, self.new = make(self.before, CONTEXT), make(self.fresh, CONTEXT)

    def update(self) -> Plan:
        tracked = {
            path.relative_to(self.project).as_posix()
            for path in self.project.rglob("*")
            if path.is_file()
        }
        plan = Planner(self.project, self.old, self.fresh, self.new).make(tracked, self.new)
        write(self.project, plan.changes)
        return plan

    @property
    def content(self) -> str:
        path = self.project / self.name
        return path.read_text(encoding="utf-8") if path.is_file() else NOT_THERE


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("contents", OUTCOMES[SHARED])
def test_what_becomes_of_a_file_of_each_kind(tmp_path: Path, name: str, contents: str) -> None:
    after, told = OUTCOMES[name][contents]
    projects = Projects(tmp_path, name, contents)
    plan = projects.update()
    assert projects.content == line(after)
    lists = ("conflicts", "kept", "new_locks", "stale_locks")
    listed = {kind for kind in lists if name in getattr(plan, kind)}
    assert {*listed, plan.edited.get(name, "")} - {""} == {told} - {""}
    assert {*plan.edited, *plan.kept, *plan.conflicts} <= {name}, "nothing else is told"
    assert read(projects.project).version == "1.1"
    assert list(plan.changes)[-2:] == [".bff/base.zip", ".bff/project.json"], "the record is last"
    again = Planner(projects.project, projects.new, projects.fresh, projects.new)
    assert again.make(set(), projects.new).changes == {}, "a second update does nothing"


def test_a_file_can_move_from_one_owner_to_another(tmp_path: Path) -> None:
    """The patterns of a newer version can differ from those by which a project was recorded."""
    was_engine = Projects(tmp_path / "1", SHARED, "a a b")
    digests = {**was_engine.old.engine, SHARED: records.digest(b"a\n")}
    was_engine.old = Record({**was_engine.old.data, "engine": digests}, {})
    assert was_engine.update().conflicts == []
    assert was_engine.content == "b\n"

    was_shared = Projects(tmp_path / "2", ENGINE, "a b c")
    was_shared.old = replace(was_shared.old, base={ENGINE: b"b\n"})
    assert was_shared.update().edited == {}
    assert was_shared.content == "c\n"

    now_users = Projects(tmp_path / "3", SHARED, "a a b")
    now_users.new = replace(now_users.new, base={})
    assert SHARED not in now_users.update().changes
    assert now_users.content == "a\n"


def test_a_merged_file_stays_executable_and_others_are_as_the_template_has_them(
    tmp_path: Path,
) -> None:
    for number, contents in enumerate(("a b c", "a a b", ". . a")):
        projects = Projects(tmp_path / str(number), SHARED, contents)
        is_merged = contents == "a b c"
        ((projects.project if is_merged else projects.fresh) / SHARED).chmod(0o755)
        projects.update()
        assert (projects.project / SHARED).stat().st_mode & 0o777 == 0o755, contents
        assert (projects.project / ".bff/project.json").stat().st_mode & 0o777 == 0o644


def test_a_merge_has_both_changes_or_shows_their_conflicts_or_is_yours(tmp_path: Path) -> None:
    outcomes = {
        "1\n2\n3\n4 1\nx\n2\n3\n4 1\n2\n3\n4\ny": ("1\nx\n2\n3\n4\ny\n", []),
        "a\0 a\0 b\0": ("b\0\n", []),
        "a\0 b\0 a\0": ("b\0\n", []),
        "a\0 b\0 b\0": ("b\0\n", []),
        "a\0 b\0 c\0": ("b\0\n", [SHARED]),
    }
    for number, (contents, outcome) in enumerate(outcomes.items()):
        projects = Projects(tmp_path / str(number), SHARED, contents)
        plan = projects.update()
        assert (projects.content, plan.conflicts) == outcome, contents
    ours, base, theirs = (
        "".join(f"{number} {who}\n\n\n\n\n{number}\n\n\n\n\n" for number in range(140)).encode()
        for who in ("ours", "base", "theirs")
    )
    text, is_conflict = git.merge(ours, base, theirs, "1.1")
    assert is_conflict
    assert text.count(b"<<<<<<< yours") == 140, "more than git's exit code can tell"


OWNED = {
    Owner.LOCAL: [".env", ".git/config", ".venv/bin/python", ".bff/base.zip", "app/a.pyc"],
    Owner.ENGINE: ["bff/tasks.py", "client/package.json"],
    Owner.USER: ["app/main.py", "tests/test_app.py", "migrations/versions/0001.py"],
    Owner.LOCK: ["requirements.lock", "requirements-dev.lock"],
    Owner.SHARED: ["migrations/env.py", "README.md", "deploy/.env.example"],
}


def test_a_record_has_each_file_that_is_not_the_users_and_is_read_as_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, names in OWNED.items():
        assert {owner(name) for name in names} == {kind}
    files = {name: f"{name}\n" for names in OWNED.values() for name in names} | version("1.0")
    del files[".bff/base.zip"]
    project = put(tmp_path, files)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(CONTEXT)))
    records.main()
    made = read(project)
    assert made.engine == {
        name: records.digest((project / name).read_bytes())
        for name in (*OWNED[Owner.ENGINE], "bff/version.py")
    }
    assert made.locks.keys() == {*OWNED[Owner.LOCK]}
    assert dict(made.base) == {name: f"{name}\n".encode() for name in OWNED[Owner.SHARED]}
    assert made.data.items() >= {"template": "gh:a/b", "checkout": "main"}.items()
    assert (made.version, made.year, made.answers) == ("1.0", "2020", {"name": "Shop"})
    assert made == make(project, CONTEXT)
    with zipfile.ZipFile(project / ".bff" / "base.zip") as archive:
        assert {one.external_attr >> 16 for one in archive.infolist()} == {0o644}
    (project / "bff/version.py").write_text("")
    assert (
        make(project, {}).data.items()
        >= dict.fromkeys(("template", "checkout", "version", "year"), "").items()
    )


CHANGELOG = """\
# Changes

## 0.10.0

### What you must do

- Ten.

### Other

## v0.9.1 (a title)

### What you must do

- Nine one.

## 0.9

### What you must do

- Nine.

## 0.8

Nothing.
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.8", "0.10.0", {"0.9": "- Nine.", "0.9.1": "- Nine one.", "0.10.0": "- Ten."}),
        ("0.9", "0.9.1", {"0.9.1": "- Nine one."}),
        ("0.9.1", "0.10.0rc1", {"0.10.0": "- Ten."}),
        ("0.10.0", "0.10.0", {}),
        ("", "0.9", {"0.9": "- Nine."}),
    ],
)
def test_what_must_be_done_is_that_of_the_versions_between(
    old: str, new: str, expected: dict[str, str]
) -> None:
    assert to_do(CHANGELOG, old, new) == expected
    assert list(to_do(CHANGELOG, old, new)) == list(expected), "the oldest first"
    assert to_do("", old, new) == {}


def recorded(number: str, **answers: str) -> Record:
    return Record({"version": number, "answers": answers}, {})


def test_the_report_names_everything_that_the_user_should_look_at() -> None:
    file = File(b"", 0o644)
    plan = Plan(
        changes={"bff/a.py": file, "b.md": file, "c.md": None, ".bff/project.json": file},
        edited={"bff/a.py": "changed"},
        conflicts=["b.md"],
        kept=["d.md"],
        new_locks=["requirements.lock"],
        stale_locks=["requirements-dev.lock"],
    )
    old, new = recorded("0.9", name="Shop"), recorded("0.10.0", name="Shop", region="eu")
    assert report(plan, old, new, CHANGELOG) == (
        "Updated from version 0.9 to 0.10.0: 2 files written, 1 removed.\n"
        "\nEngine files that you had edited, now overwritten:\n  bff/a.py\n"
        "\nNew questions of the template, answered with their defaults:\n  region = eu\n"
        "\nFiles that the template no longer has, kept because you changed them:\n  d.md\n"
        "\nFor version 0.9.1 you must:\n- Nine one.\n"
        "\nFor version 0.10.0 you must:\n- Ten.\n"
        "\nMerge conflicts, marked with <<<<<<<, for you to resolve:\n  b.md\n"
        "\nNext:\n"
        "  make lock      # you have edited requirements-dev.lock\n"
        "  make install   # dependencies changed\n"
        "  git diff       # review the changes\n"
        "  make test      # then commit"
    )


@pytest.mark.parametrize(
    ("changes", "commands"),
    [
        ({}, ["git diff", "make test"]),
        ({"new_locks": ["a.lock"]}, ["make install", "git diff", "make test"]),
        ({"stale_locks": ["a.lock"]}, ["make lock", "make install", "git diff", "make test"]),
    ],
    ids=["no lock", "a new lock", "an edited lock"],
)
def test_the_report_says_only_what_there_is_to_do(
    changes: dict[str, list[str]], commands: list[str]
) -> None:
    plan = Plan(changes={"b.md": File(b"", 0o644)}, **changes)  # type: ignore[arg-type]
    first, *lines = report(plan, recorded("1.0"), recorded("1.1"), "").splitlines()
    assert first == "Updated from version 1.0 to 1.1: 1 files written, 0 removed."
    assert lines[:2] == ["", "Next:"]
    assert [one.partition("#")[0].strip() for one in lines[2:]] == commands
    assert report(Plan(), recorded("1.1"), recorded("1.1"), CHANGELOG) == (
        "Nothing to update: the project is at version 1.1 of the template."
    )


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_a_folder_goes_with_its_last_file_and_with_what_python_has_cached(tmp_path: Path) -> None:
    names = ("a/b/c/one.py", "a/b/c/__pycache__/one.pyc", "a/kept.py", "other/__pycache__/x.pyc")
    put(tmp_path, dict.fromkeys(names, "x\n"))
    write(tmp_path, {"a/b/c/one.py": None, "away/two.py": None, "new/three.py": File(b"3", 0o600)})
    assert contents(tmp_path) == {
        "a": None,
        "a/kept.py": b"x\n",
        "other": None,
        "other/__pycache__": None,
        "other/__pycache__/x.pyc": b"x\n",
        "new": None,
        "new/three.py": b"3",
    }
    assert (tmp_path / "new/three.py").stat().st_mode & 0o777 == 0o600
    alone = tmp_path / "alone"
    put(alone, {"a/b/only.py": "x\n"})
    write(alone, {"a/b/only.py": None})
    assert contents(tmp_path)["alone"] is None, "the folder of the project stays"
    assert contents(alone) == {}


def test_a_write_that_fails_leaves_the_project_as_it_was(tmp_path: Path) -> None:
    put(tmp_path, {"a.py": "a\n", "gone.py": "gone\n", "folder/inside.py": "x\n"})
    before = contents(tmp_path)
    changes = {
        "a.py": File(b"new", 0o644),
        "gone.py": None,
        "new.py": File(b"new", 0o644),
        "folder": File(b"a file", 0o644),
    }
    with pytest.raises(IsADirectoryError):
        write(tmp_path, changes)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("address", "recorded"),
    [
        ("/home/ada/template", ""),
        ("../template", ""),
        ("template", ""),
        (r"C:\Users\ada\template", ""),
        ("file:///home/ada/template.git", ""),
        ("https://git.example.com/a/b.git", "https://git.example.com/a/b.git"),
        ("https://ada:pa@ss@git.example.com/a/b.git", "https://git.example.com/a/b.git"),
        ("git+https://token@git.example.com:81/a", "git+https://git.example.com:81/a"),
        ("https://git.example.com/b.zip?token=secret", "https://git.example.com/b.zip"),
        ("ssh://git:secret@git.example.com/a/b", "ssh://git@git.example.com/a/b"),
        ("git@git.example.com:a/b.git", "git@git.example.com:a/b.git"),
        ("gh:a/b", "gh:a/b"),
    ],
)
def test_no_path_and_no_credentials_are_recorded(address: str, recorded: str) -> None:
    assert public_address(address) == recorded


# Fetching


def commit(folder: Path) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@a.invalid")
    for command in (("init", "--quiet"), ("add", "--all"), (*identity, "commit", "-qm", "change")):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)


def test_a_template_is_taken_as_it_is_or_as_it_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(tmp_path / "source", {"cookiecutter.json": "{}"})
    commit(source)
    subprocess.run(["git", "tag", "v1"], cwd=source, check=True)
    put(source, {"cookiecutter.json": '{"new": 1}'})
    monkeypatch.chdir(tmp_path)
    assert template.fetch("source", "", tmp_path / "unused") == source
    into = put(tmp_path / "into", {"a": NOT_THERE})
    cloned = template.fetch("source", "v1", into)
    assert cloned.is_relative_to(into)
    assert (cloned / "cookiecutter.json").read_text() == "{}"
    other = put(tmp_path / "other", {"a": NOT_THERE})
    with pytest.raises(UpdateError, match="v2"):
        template.fetch("source", "v2", other)
    for number, checkout in enumerate(("", "v1")):
        with pytest.raises(UpdateError, match="into"):
            template.fetch("into", checkout, put(tmp_path / str(number), {"a": NOT_THERE}))
    (source / "cookiecutter.json").unlink()
    commit(source)
    with pytest.raises(UpdateError, match=r"The template has no cookiecutter\.json"):
        template.fetch("source", "", put(tmp_path / "fourth", {"a": NOT_THERE}))


def test_only_a_committed_project_is_updated_and_only_its_files_are_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = put(tmp_path, {"shop/.bff/project.json": "{}", "shop/ä b.md": "x", "c.md": "x"})
    project = repository / "shop"
    with pytest.raises(UpdateError, match="is not committed to git"):
        git.check_is_clean(project)
    commit(repository)
    git.check_is_clean(project)
    assert git.tracked(project) == {".bff/project.json", "ä b.md"}
    put(repository, {"c.md": "changed elsewhere"})
    git.check_is_clean(project)
    put(project, {"new.md": "x"})
    with pytest.raises(UpdateError, match="has uncommitted changes"):
        git.check_is_clean(project)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(UpdateError, match="needs git"):
        git.check_is_clean(project)


def test_answers_are_kept_as_they_are_as_far_as_the_template_still_asks_for_them(
    tmp_path: Path,
) -> None:
    questions = {
        "name": "Shop",
        "text": "",
        "other": "eu",
        "ci": ["github", "gitlab"],
        "broker": ["a", "b"],
        "__year": "{% now 'utc', '%Y' %}",
    }
    asked = "|".join(f"{{{{ cookiecutter.{name} }}}}" for name in questions)
    files = {"cookiecutter.json": json.dumps(questions), "{{cookiecutter.name}}/a.md": asked}
    source, into = put(tmp_path / "source", files), tmp_path / "into"
    text = 'a {{ tea }} "hot" {% x %}'
    before = {"name": "tea", "text": text, "ci": "gitlab", "broker": "c", "gone": "x"}
    answers = template.kept_answers(source, before)
    assert answers == {"name": "tea", "text": text, "ci": "gitlab"}
    into.mkdir()
    made = template.bake(source, answers, "2020", into)
    assert made.name == "tea"
    assert (made / "a.md").read_text() == f"tea|{text}|eu|gitlab|a|2020"
    put(source, {"cookiecutter.json": "{"})
    with pytest.raises(UpdateError, match=r"cookiecutter\.json of the template cannot be read"):
        template.kept_answers(source, answers)
    with pytest.raises(UpdateError, match="cookiecutter failed"):
        template.bake(source, answers, "", put(tmp_path / "other", {"a": NOT_THERE}))


# The command


class Fetched:
    """Stands in for the newer template, of which `projects.fresh` is the project."""

    def __init__(self, projects: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
        self._projects = projects
        self._questions = put(projects.fresh.parent / "source", {"cookiecutter.json": '{"name":1}'})
        self.asked: list[tuple[Any, ...]] = []
        put(projects.fresh, {"bff/CHANGELOG.md": "## 1.1\n\n### What you must do\n\n- Sing.\n"})
        projects.new = make(projects.fresh, {**CONTEXT, "_template": "/home/ada/template"})
        for project, record in ((projects.project, projects.old), (projects.fresh, projects.new)):
            (project / ".bff").mkdir()
            for name, content in record.files().items():
                (project / name).write_bytes(content)
        commit(projects.project)
        monkeypatch.chdir(projects.project)
        monkeypatch.setattr(template, "fetch", self.fetch)
        monkeypatch.setattr(template, "bake", self.bake)

    def fetch(self, address: str, checkout: str, into: Path) -> Path:
        self.asked.append((address, checkout))
        return self._questions

    def bake(self, fetched: Path, answers: dict[str, Any], year: str, into: Path) -> Path:
        self.asked.append((answers, year))
        return self._projects.fresh


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def test_the_template_is_the_recorded_one_or_the_one_that_is_named_and_recorded_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = Projects(tmp_path, SHARED, "a a b")
    fetched = Fetched(projects, monkeypatch)
    code, output = run()
    assert (code, fetched.asked) == (0, [("gh:a/b", ""), ({"name": "Shop"}, "2020")])
    assert output.startswith("Updated from version 1.0 to 1.1: ")
    assert "For version 1.1 you must:\n- Sing." in output
    assert projects.content == "b\n"
    made = read(projects.project)
    assert (made.template, made.checkout, made.version) == ("gh:a/b", "", "1.1")
    for address, recorded_address in (
        ("https://ada@a.invalid/b.git", "https://a.invalid/b.git"),
        ("../template", "https://a.invalid/b.git"),
    ):
        commit(projects.project)
        assert run(address, "--checkout", "v2")[0] == 0
        assert fetched.asked[-2] == (address, "v2")
        made = read(projects.project)
        assert (made.template, made.checkout) == (recorded_address, "v2")
        put(projects.project, {"README.md": address})


def test_an_update_ends_with_1_if_conflicts_remain_or_nothing_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflict = Projects(tmp_path / "1", SHARED, "a b c")
    Fetched(conflict, monkeypatch)
    code, output = run()
    assert (code, "Merge conflicts" in output) == (1, True)
    assert conflict.content == CONFLICT
    edited = Projects(tmp_path / "2", ENGINE, "a b c")
    fetched = Fetched(edited, monkeypatch)
    (edited.fresh / "bff" / "CHANGELOG.md").unlink()
    before = contents(edited.project)
    with monkeypatch.context() as without:
        without.setattr(template, "find_spec", lambda _: None)
        code, output = run("--force")
        assert (code, "needs cookiecutter" in output) == (1, True)
    put(edited.project, {"new.md": "x"})
    code, output = run("--force")
    assert (code, "has uncommitted changes" in output) == (1, True)
    (edited.project / "new.md").unlink()
    assert fetched.asked == []
    code, output = run()
    assert (code, f"{ENGINE} (changed)" in output) == (1, True)
    assert contents(edited.project).keys() == before.keys()
    assert edited.content == "b\n"
    assert run("--force")[0] == 0
    assert edited.content == "c\n"
    (edited.project / ".bff" / "base.zip").unlink()
    assert "This project has no .bff/base.zip" in run("--force")[1]

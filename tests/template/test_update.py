"""`make update`: a customised project meets a newer template."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bff.update.__main__ import main
from click.testing import CliRunner, Result

from scripts.bake import PROJECT, ROOT, bake
from tests.baked import BakedProject

TESTS = ("-p", "no:cacheprovider", "tests/test_notes.py", "tests/test_app.py")
VERSION = re.compile(r'__version__ = "(.*)"')
OLD = VERSION.findall((ROOT / PROJECT / "bff" / "version.py").read_text(encoding="utf-8"))[0]
NEW = f"{OLD}.1"
YEAR = "2020"
REVISION = '''"""Notes."""

revision = "0001"
down_revision = None


def upgrade() -> None: ...


def downgrade() -> None: ...
'''
ANSWERS = {
    "project_name": "Shop",
    "author_name": "Ada & Sons",
    "ci": "gitlab",
    "__year": YEAR,
    "description": '{{ "Sells {{ tea }}, \\"hot\\"" }}',
}
DESCRIPTION = 'Sells {{ tea }}, "hot"'
USERS = (
    ".env",
    "app/routes/__init__.py",
    "app/routes/notes.py",
    "migrations/versions/0001_notes.py",
    "tests/test_notes.py",
)


@dataclass(frozen=True)
class Updated:
    before: BakedProject
    after: BakedProject
    output: str


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "change")


def append(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(before + text, encoding="utf-8")


def replace(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text, name
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def update(project: BakedProject, *arguments: str | Path) -> Result:
    """Run the command in this process, which is faster; the fixture `updated` runs the project's
    own, which replaces itself."""
    with chdir(project.path):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])


def record(project: BakedProject) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.read(".bff/project.json"))
    return found


def own(project: BakedProject) -> dict[str, bytes]:
    """Every file of a project, without git's and without what Python caches."""
    return {
        name: (project.path / name).read_bytes()
        for name in project.files()
        if not name.startswith(".git/") and "__pycache__" not in name
    }


def engine(project: BakedProject) -> dict[str, bytes]:
    return {n: text for n, text in own(project).items() if n.startswith(("bff/", "client/"))}


def renew(template: Path) -> None:
    """The changes that the newer version of the template brings."""
    project = template / PROJECT
    replace(project, "bff/version.py", OLD, NEW)
    append(project, "bff/codec.py", "\n# changed by the template\n")
    append(project, "bff/new_room/__init__.py", '"""New."""\n')
    shutil.rmtree(project / "bff" / "old_room")
    append(project, "client/README.md", "\nChanged by the template.\n")
    entry = f"## {NEW}\n\nNews.\n\n### What you must do\n\n- Sing a song.\n\n"
    replace(project, "bff/CHANGELOG.md", f"## {OLD}\n", f"{entry}## {OLD}\n")
    append(project, "app/routes/__init__.py", "\n# changed by the template\n")
    append(project, "app/routes/extra.py", '"""Of the template."""\n')
    append(project, "Makefile", "\n# changed by the template\n")
    append(project, "README.md", "\nChanged by the template.\n")
    append(project, "pyproject.toml", "\n[tool.template]\nchanged = true\n")
    append(project, "compose.yaml", "\n# changed by the template\n")
    append(project, ".editorconfig", "\n# changed by the template\n")
    append(project, "deploy/region.txt", "{{ cookiecutter.region }}\n")
    replace(project, "deploy/nginx.conf", "# first\n", "# of the template\n")
    (project / "deploy" / "dropped.conf").unlink()
    (project / "deploy" / "edited.conf").unlink()
    append(project, "requirements.lock", "# new\n")
    append(project, "requirements-dev.lock", "# new\n")
    replace(template, "cookiecutter.json", '  "ci": [', '  "region": "eu",\n  "ci": [')


def customise(project: Path) -> None:
    """What a user does with a project."""
    append(project, ".env", "OWN=1\n")
    append(project, "app/routes/notes.py", '"""Notes."""\n')
    append(project, "app/routes/__init__.py", "\n# notes\n")
    append(project, "tests/test_notes.py", "def test_notes() -> None: ...\n")
    append(project, "migrations/versions/0001_notes.py", REVISION)
    replace(project, "README.md", "# Shop", "# The shop")
    replace(project, "Makefile", "PORT ?= 8000", "PORT ?= 9000")
    replace(project, "pyproject.toml", "dependencies = [", 'dependencies = [\n    "own>=1",')
    append(project, "requirements-dev.lock", "# mine\n")
    append(project, "deploy/edited.conf", "# mine\n")
    (project / ".editorconfig").unlink()


@pytest.fixture(name="source", scope="module")
def source_fixture(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the template with the tags `old` and `new`; `old` is checked out."""
    path = tmp_path_factory.mktemp("source") / "template"
    shutil.copytree(template, path)
    append(path / PROJECT, "bff/old_room/__init__.py", '"""Old."""\n')
    append(path / PROJECT, "deploy/dropped.conf", "# dropped\n")
    append(path / PROJECT, "deploy/edited.conf", "# dropped\n")
    nginx = path / PROJECT / "deploy" / "nginx.conf"
    nginx.write_text("# first\n" + nginx.read_text(encoding="utf-8"), encoding="utf-8")
    git(path, "init", "--quiet")
    commit(path)
    git(path, "tag", "old")
    renew(path)
    commit(path)
    git(path, "tag", "new")
    git(path, "checkout", "--quiet", "old")
    return path


@pytest.fixture(name="pristine", scope="module")
def pristine_fixture(source: Path, tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A project of the old template, committed, of which nothing was changed."""
    project = bake(source, tmp_path_factory.mktemp("pristine"), ANSWERS)
    git(project, "init", "--quiet")
    commit(project)
    git(source, "checkout", "--quiet", "new")
    return BakedProject(project)


@pytest.fixture(name="copy")
def copy_fixture(pristine: BakedProject, tmp_path: Path) -> BakedProject:
    """A copy of the unchanged project."""
    return BakedProject(shutil.copytree(pristine.path, tmp_path / "shop"))


@pytest.fixture(name="fresh", scope="module")
def fresh_fixture(
    source: Path, pristine: BakedProject, tmp_path_factory: pytest.TempPathFactory
) -> BakedProject:
    """The project that the new template makes."""
    return BakedProject(bake(source, tmp_path_factory.mktemp("fresh"), ANSWERS))


@pytest.fixture(name="updated", scope="module")
def updated_fixture(
    source: Path, pristine: BakedProject, tmp_path_factory: pytest.TempPathFactory
) -> Updated:
    """A customised project, before and after."""
    folder = tmp_path_factory.mktemp("updated")
    project = BakedProject(shutil.copytree(pristine.path, folder / "after"))
    customise(project.path)
    commit(project.path)
    before = BakedProject(shutil.copytree(project.path, folder / "before"))
    done = project.run(sys.executable, "-m", "bff.update", source)
    assert done.returncode == 0, done.stdout
    return Updated(before, project, done.stdout)


def test_files_of_the_user_are_not_changed(updated: Updated) -> None:
    before, after = own(updated.before), own(updated.after)
    for name in USERS:
        assert after[name] == before[name], name
    users = ("app/", "tests/", "migrations/versions/")
    assert {n for n in after if n.startswith(users)} == {n for n in before if n.startswith(users)}


def test_the_engine_is_replaced(updated: Updated, fresh: BakedProject) -> None:
    assert engine(updated.after) == engine(fresh)
    assert not (updated.after.path / "bff" / "old_room").exists()


@pytest.mark.parametrize(
    ("name", "mine"),
    [
        ("README.md", "# The shop"),
        ("Makefile", "PORT ?= 9000"),
        ("pyproject.toml", '"own>=1"'),
    ],
)
def test_shared_files_are_merged(updated: Updated, name: str, mine: str) -> None:
    text = updated.after.read(name)
    assert mine in text
    assert re.search(r"hanged by the template|^changed = true", text, re.MULTILINE)
    assert "<<<<<<<" not in text


def test_the_projects_own_tests_pass(updated: Updated) -> None:
    done = updated.after.run(sys.executable, "-m", "pytest", "-q", *TESTS)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_files_are_added_and_removed_unless_the_user_changed_them(updated: Updated) -> None:
    files = updated.after.files()
    assert "changed by the template" in updated.after.read("compose.yaml")
    assert updated.after.read("deploy/region.txt") == "eu\n"
    assert "deploy/dropped.conf" not in files
    assert ".editorconfig" not in files
    assert "# mine" in updated.after.read("deploy/edited.conf")
    assert "kept because you changed them:\n  deploy/edited.conf" in updated.output


def test_a_lock_is_replaced_unless_the_user_changed_it(updated: Updated) -> None:
    assert updated.after.read("requirements.lock").endswith("# new\n")
    assert updated.after.read("requirements-dev.lock").endswith("# mine\n")
    assert "make lock" in updated.output
    assert "you have edited requirements-dev.lock" in updated.output
    assert "make install" in updated.output


def test_answers_are_kept_and_new_questions_take_their_defaults(updated: Updated) -> None:
    answers = record(updated.after)["answers"]
    assert answers.pop("region") == "eu"
    assert answers == record(updated.before)["answers"]
    assert answers["description"] == DESCRIPTION
    assert DESCRIPTION in updated.after.read("README.md")
    assert "defaults:\n  region = eu" in updated.output
    assert f"Copyright (c) {YEAR}" in updated.after.read("LICENSE")


def test_the_record_is_that_of_the_new_template(updated: Updated, fresh: BakedProject) -> None:
    new = record(updated.after)
    assert new == record(fresh)
    assert new["version"] == NEW
    with zipfile.ZipFile(updated.after.path / ".bff" / "base.zip") as archive:
        base = {name: archive.read(name) for name in archive.namelist()}
    made = own(fresh)
    assert list(base) == sorted(base)
    assert base == {name: made[name] for name in base}


def test_the_report_contains_what_the_changelog_requires(updated: Updated) -> None:
    assert f"Updated from version {OLD} to {NEW}" in updated.output
    assert f"For version {NEW} you must:\n- Sing a song." in updated.output
    assert f"For version {OLD} you must" not in updated.output


def test_a_second_update_does_nothing(updated: Updated, source: Path, tmp_path: Path) -> None:
    project = BakedProject(shutil.copytree(updated.after.path, tmp_path / "again"))
    commit(project.path)
    (tmp_path / "ready").touch()
    binaries = Path(sys.executable).parent
    done = project.run(
        "make", "update", f"TEMPLATE={source}", f"BIN={binaries}", f"READY={tmp_path / 'ready'}"
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("Nothing to update")
    assert git(project.path, "status", "--porcelain") == ""


def test_conflicts_are_marked_and_listed(copy: BakedProject, source: Path) -> None:
    replace(copy.path, "deploy/nginx.conf", "# first\n", "# of mine\n")
    commit(copy.path)
    done = update(copy, source, "--checkout", "new")
    assert done.exit_code == 1, done.output
    assert re.search(r"Merge conflicts.*\n  deploy/nginx\.conf\n", done.output)
    expected = f"<<<<<<< yours\n# of mine\n=======\n# of the template\n>>>>>>> template {NEW}\n"
    assert copy.read("deploy/nginx.conf").startswith(expected)
    assert record(copy)["checkout"] == "new"
    assert record(copy)["template"] == ""


def test_an_edited_engine_is_replaced_only_with_force(
    copy: BakedProject, source: Path, fresh: BakedProject
) -> None:
    append(copy.path, "bff/tasks.py", "# mine\n")
    append(copy.path, "bff/mine.py", "# mine\n")
    (copy.path / "client" / "package.json").unlink()
    commit(copy.path)
    refused = update(copy, source)
    assert refused.exit_code == 1
    for named in ("bff/tasks.py (changed)", "bff/mine.py (added)", "package.json (deleted)"):
        assert named in refused.output
    assert git(copy.path, "status", "--porcelain") == ""
    forced = update(copy, f"git+file://{source}", "--checkout", "new", "--force")
    assert forced.exit_code == 0, forced.output
    assert engine(copy) == engine(fresh)
    assert record(copy)["template"] == ""


def dirty(project: Path) -> None:
    append(project, "app/main.py", "# not committed\n")


def without_git(project: Path) -> None:
    shutil.rmtree(project / ".git")


def without_record(project: Path) -> None:
    (project / ".bff" / "project.json").unlink()


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (dirty, ["--force"], "has uncommitted changes. Commit or stash them"),
        (without_git, [], "is not committed to git"),
        (without_record, [], "has no .bff/project.json"),
        (lambda _: None, [], "TEMPLATE=../cookiecutter-fastapi-bff"),
        (lambda _: None, ["app"], "does not appear to be a git repository|not exist|no cookiecut"),
        (lambda _: None, ["/nowhere"], "The template cannot be fetched"),
    ],
)
def test_an_impossible_update_is_refused_with_a_sentence(
    copy: BakedProject, change: Callable[[Path], None], arguments: list[str], words: str
) -> None:
    change(copy.path)
    before = own(copy)
    done = update(copy, *arguments)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert re.search(words, done.output), done.output
    assert "Traceback" not in done.output
    assert own(copy) == before


def test_a_failed_update_is_undone(copy: BakedProject, source: Path) -> None:
    append(copy.path, "deploy/region.txt/a-folder-where-a-file-comes", "")
    commit(copy.path)
    done = update(copy, source)
    assert done.exit_code == 1
    assert "The update failed and was undone" in done.output
    assert git(copy.path, "status", "--porcelain") == ""
    assert (copy.path / "bff" / "old_room" / "__init__.py").is_file()


def test_a_template_that_breaks_changes_nothing(
    copy: BakedProject, source: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(source, tmp_path / "broken")
    append(broken / PROJECT, "README.md", "{{ cookiecutter.unknown }}\n")
    done = update(copy, broken)
    assert done.exit_code == 1
    assert done.output.startswith("Error: cookiecutter failed")
    assert git(copy.path, "status", "--porcelain") == ""


def test_a_new_record_is_the_same_every_time(source: Path, tmp_path: Path) -> None:
    first = bake(source, tmp_path / "first", ANSWERS)
    second = bake(source, tmp_path / "second", ANSWERS)
    for name in (".bff/base.zip", ".bff/project.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert str(source) not in (first / ".bff" / "project.json").read_text(encoding="utf-8")

"""The hooks, for a new project and for an existing one."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bake import PROJECT, BakeError
from scripts.bake import bake as bake_into
from tests.baked import BakedProject
from tests.template.conftest import Bake
from tests.template.test_cookiecutter import contents, cookiecutter
from tests.template.test_update import commit, git

SECRETS = (
    "JWT_SECRET",
    "MESH_TOKEN_SECRET",
    "REDIS_PASSWORD",
    "RABBITMQ_PASSWORD",
    "POSTGRES_PASSWORD",
)


def secrets_of(project: BakedProject) -> list[str]:
    lines = dict(line.split("=", 1) for line in project.read(".env").splitlines() if "=" in line)
    return [lines[name] for name in SECRETS]


def test_secrets_are_fresh_strong_and_all_different(bake: Bake) -> None:
    found = secrets_of(bake()) + secrets_of(bake())
    assert len(set(found)) == 2 * len(SECRETS)
    for secret in found:
        assert re.fullmatch(r"[0-9a-f]{64}", secret)


def test_env_is_the_example_with_secrets(default: BakedProject) -> None:
    without = re.sub(rf"^({'|'.join(SECRETS)})=.*$", r"\1=", default.read(".env"), flags=re.M)
    assert without == default.read(".env.example")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_owner_can_read_env(default: BakedProject) -> None:
    assert stat.S_IMODE((default.path / ".env").stat().st_mode) == 0o600


def test_git_does_not_see_env(bake: Bake) -> None:
    project = bake()
    subprocess.run(["git", "init", "--quiet"], cwd=project.path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=project.path, check=True)
    tracked = project.run("git", "ls-files").stdout.split()
    assert ".env.example" in tracked
    assert ".env" not in tracked


def test_an_existing_env_is_not_changed(bake: Bake) -> None:
    project = bake()
    (project.path / ".env").write_text("JWT_SECRET=\n")
    done = project.run("python3", "scripts/make_env.py")
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""
    assert project.read(".env") == "JWT_SECRET=\n"


@pytest.mark.parametrize("options", [["-f"], ["-f", "-s"]], ids=" ".join)
def test_a_folder_that_holds_a_project_is_refused(
    template: Path, tmp_path: Path, options: list[str]
) -> None:
    """Cookiecutter ignores `-s`, which keeps existing files, for files that it copies."""
    project = BakedProject(bake_into(template, tmp_path))
    (project.path / "app" / "main.py").write_text("# mine\n")
    before, secrets = contents(project), project.read(".env")
    done = cookiecutter(template, "--no-input", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert "my-bff already holds a project of this template" in done.stdout
    assert "make update" in done.stdout
    assert contents(project) == before
    assert project.read(".env") == secrets


def test_a_folder_that_holds_other_files_is_refused(template: Path, tmp_path: Path) -> None:
    (tmp_path / "my-bff").mkdir()
    (tmp_path / "my-bff" / "Makefile").write_text("mine:\n")
    done = cookiecutter(template, "--no-input", "-f", cwd=tmp_path)
    assert done.returncode == 1
    assert "my-bff is not empty: it contains Makefile." in done.stdout
    assert contents(BakedProject(tmp_path / "my-bff")) == {"Makefile": b"mine:\n"}


def test_a_new_repository_is_accepted_and_its_history_untouched(
    template: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my-bff"
    folder.mkdir()
    (folder / "README.md").write_text("# Shop\n")
    git(folder, "init", "--quiet")
    commit(folder)
    before = {path: path.stat() for path in (folder / ".git").rglob("*")}
    done = cookiecutter(template, "--no-input", "-f", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert {path: path.stat() for path in (folder / ".git").rglob("*")} == before


IGNORED = (
    ".env",
    ".env.local",
    ".venv/bin/python",
    ".venv/lib/jinja.txt",
    "app/__pycache__/main.cpython-311.pyc",
    "bff.sqlite3",
    "bff.sqlite3-wal",
    "build/notes.txt",
    "client/node_modules/{{ x }}/index.js",
    "client/node_modules/y/README.md",
    "my_bff.egg-info/PKG-INFO",
    ".coverage",
    ".mypy_cache/3.11/cache.json",
    "tests/.pytest_cache/v/x",
)


@pytest.mark.parametrize("in_git", [True, False])
def test_what_git_ignores_in_a_clone_reaches_no_project(
    default: BakedProject, template: Path, tmp_path: Path, in_git: bool
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(template, clone)
    for name in IGNORED:
        path = clone / PROJECT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("JWT_SECRET=of-the-clone {{ x }} {% y %}\n")
    if in_git:
        git(clone, "init", "--quiet")
        commit(clone)
        assert not {f"{PROJECT}/{name}" for name in IGNORED} & set(git(clone, "ls-files").split())
    project = BakedProject(bake_into(clone, tmp_path / "out"))
    assert project.files() == default.files()
    assert "of-the-clone" not in project.read(".env")
    assert not list(project.path.rglob("__pycache__"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_read_only_template_gives_a_project_that_can_be_edited(
    template: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(template, clone)
    paths = [clone, *clone.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    project = bake_into(clone, tmp_path / "out")
    assert all(path.stat().st_mode & stat.S_IWUSR for path in [project, *project.rglob("*")])
    for path in paths:
        path.chmod(0o755)


def test_a_manifest_with_a_missing_file_is_an_error(template: Path, tmp_path: Path) -> None:
    broken = tmp_path / "template"
    shutil.copytree(template, broken)
    (broken / "{{cookiecutter.project_slug}}" / ".gitlab-ci.yml").unlink()
    for ci in ("github", "gitlab"):
        with pytest.raises(BakeError, match=r"lists \.gitlab-ci\.yml, which does not exist"):
            bake_into(broken, tmp_path / ci, {"ci": ci})


def test_hooks_import_only_the_standard_library(template: Path) -> None:
    allowed = {"__future__"} | sys.stdlib_module_names
    for hook in (template / "hooks").glob("*.py"):
        imported = set(re.findall(r"^(?:from|import) (\w+)", hook.read_text(), flags=re.M))
        assert imported <= allowed, hook.name

"""The hooks, for a new project and for an existing one."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from scripts.bake import BakeError
from scripts.bake import bake as bake_into
from tests.baked import BakedProject
from tests.template.conftest import Bake

SECRETS = (
    "JWT_SECRET",
    "MESH_TOKEN_SECRET",
    "REDIS_PASSWORD",
    "RABBITMQ_PASSWORD",
    "POSTGRES_PASSWORD",
)


def contents(project: BakedProject) -> dict[str, bytes]:
    return {name: (project.path / name).read_bytes() for name in project.files()}


def secrets_of(project: BakedProject) -> list[str]:
    lines = dict(line.split("=", 1) for line in project.read(".env").splitlines() if "=" in line)
    return [lines[name] for name in SECRETS]


def test_secrets_are_fresh_strong_and_all_different(bake: Bake) -> None:
    found = secrets_of(bake()) + secrets_of(bake())
    assert len(set(found)) == 2 * len(SECRETS)
    for secret in found:
        assert re.fullmatch(r"[A-Za-z0-9_-]{64,}", secret)


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


@pytest.mark.parametrize("ci", ["github", "gitlab", "none"])
def test_baking_over_a_project_changes_nothing(template: Path, tmp_path: Path, ci: str) -> None:
    project = BakedProject(bake_into(template, tmp_path, {"ci": ci}))
    before = contents(project)
    bake_into(template, tmp_path, {"ci": ci})
    assert contents(project) == before


def test_a_manifest_with_a_missing_file_is_an_error(template: Path, tmp_path: Path) -> None:
    broken = tmp_path / "template"
    shutil.copytree(template, broken)
    (broken / "{{cookiecutter.project_slug}}" / ".gitlab-ci.yml").unlink()
    for ci in ("github", "gitlab"):
        with pytest.raises(BakeError, match=r"lists \.gitlab-ci\.yml, which does not exist"):
            bake_into(broken, tmp_path / ci, {"ci": ci})


def test_hooks_import_only_the_standard_library(template: Path) -> None:
    allowed = {"__future__", "json", "os", "pathlib", "re", "shlex", "shutil", "subprocess", "sys"}
    for hook in (template / "hooks").glob("*.py"):
        imported = set(re.findall(r"^(?:from|import) (\w+)", hook.read_text(), flags=re.M))
        assert imported <= allowed, hook.name

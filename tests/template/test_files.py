"""The files of a generated project, for every option."""

from __future__ import annotations

import re
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from scripts.bake import PROJECT, export
from scripts.bake import bake as bake_into
from tests.baked import BakedProject
from tests.template.conftest import ANSWERS, CHOICES, Bake
from tests.template.test_questions import ALL

ONLY_WITH = {
    ".github/dependabot.yml": ("ci", "github"),
    ".github/workflows/ci.yml": ("ci", "github"),
    ".gitlab-ci.yml": ("ci", "gitlab"),
    "renovate.json": ("ci", "gitlab"),
}
MADE_BY_HOOK = {".env", ".bff/project.json", ".bff/base.zip"}
"""The secrets, and what `make update` needs to know of the version that the project came from."""
ANSWER = re.compile(rf"cookiecutter\.(_|{'|'.join(ANSWERS)})")
MARKERS = re.compile(r"\{\{|\}\}|\{%|%\}|\{#|#\}")
LICENCES = {
    "MIT": "MIT License",
    "Apache-2.0": "Apache License",
    "BSD-3-Clause": "BSD 3-Clause License",
    "proprietary": "All rights reserved",
}


def in_template(template: Path) -> set[str]:
    """The template's files by their names in a project."""
    return BakedProject(template / PROJECT).files()


def expected(template: Path, **chosen: str) -> set[str]:
    dropped = {name for name, (question, option) in ONLY_WITH.items() if chosen[question] != option}
    return in_template(template) - dropped | MADE_BY_HOOK


def copied_verbatim(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in ALL["_copy_without_render"])


@pytest.mark.parametrize(("question", "option"), CHOICES)
def test_an_option_generates_exactly_its_files(
    bake: Bake, template: Path, question: str, option: str
) -> None:
    project = bake(**{question: option})
    assert project.files() == expected(template, **{"ci": "github", question: option})


@pytest.mark.parametrize(("question", "option"), CHOICES)
def test_no_jinja_is_left(bake: Bake, question: str, option: str) -> None:
    project = bake(**{question: option})
    for name in sorted(project.files() - MADE_BY_HOOK):
        text = project.read(name)
        assert not ANSWER.search(text), name
        if not copied_verbatim(name):
            assert not MARKERS.search(text), name


def test_no_code_of_the_template_holds_jinja(default: BakedProject, template: Path) -> None:
    code = [
        name
        for name in in_template(template)
        if name.endswith((".py", ".lua", ".js", ".ts", ".html"))
    ]
    assert code
    for name in code:
        assert copied_verbatim(name), name
        assert "{%" not in default.read(name), name


def test_the_files_that_the_readme_names_exist(default: BakedProject) -> None:
    folders = {name.split("/")[0] for name in default.files() if "/" in name}
    yours, engine = {"app", "tests", "migrations"}, {"bff", "client"}
    assert {name for name in folders if name[0] != "."} == yours | engine | {
        "deploy",
        "docs",
        "scripts",
    }
    readme = default.read("README.md")
    for folder in yours:
        assert re.search(rf"^{folder}/ +YOURS", readme, flags=re.M), folder
    for folder in engine | {"docs", "deploy"}:
        assert re.search(rf"^{folder}/ ", readme, flags=re.M), folder


@pytest.mark.parametrize("option", ["github", "gitlab"])
def test_ci_runs_lint_and_tests_with_real_servers(bake: Bake, option: str) -> None:
    project = bake(ci=option)
    name = {"github": ".github/workflows/ci.yml", "gitlab": ".gitlab-ci.yml"}[option]
    text = project.read(name)
    yaml.safe_load(text)
    for needed in ("make lint", "make test", "TEST_REDIS_URL", "TEST_AMQP_URL"):
        assert needed in text


@pytest.mark.parametrize(("option", "words"), LICENCES.items())
def test_the_license_is_the_chosen_one(bake: Bake, option: str, words: str) -> None:
    project = bake(license=option, author_name="Ada Lovelace")
    text = project.read("LICENSE")
    assert words in text
    assert re.search(r"Copyright (\(c\) )?20\d\d,? Ada Lovelace", text)
    metadata = tomllib.loads(project.read("pyproject.toml"))["project"]
    proprietary = option == "proprietary"
    assert metadata["license"] == ("LicenseRef-Proprietary" if proprietary else option)


def test_every_licence_is_tested() -> None:
    assert {("license", option) for option in LICENCES} == {c for c in CHOICES if c[0] == "license"}


def test_without_hooks_everything_is_there_and_make_writes_env(
    template: Path, tmp_path: Path
) -> None:
    project = BakedProject(bake_into(template, tmp_path, hooks=False))
    assert project.files() == in_template(template)
    done = project.run("make", ".env")
    assert done.returncode == 0, done.stdout
    assert "JWT_SECRET=\n" not in project.read(".env")


def test_file_names_suit_every_system(default: BakedProject) -> None:
    names = default.files()
    assert not [name for name in names if re.search(r'[<>:"|?*\\\s]', name)]
    assert len({name.lower() for name in names}) == len(names)


def test_the_export_leaves_behind_what_git_ignores(template: Path) -> None:
    """Cookiecutter itself copies whatever lies in the template's folder."""
    names = in_template(template)
    assert {"app/main.py", "bff/__init__.py", "tests/conftest.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".ruff_cache")]
    assert not names & {".env", "bff.sqlite3"}


def test_without_git_the_export_takes_all_files_but_local_ones(
    monkeypatch: pytest.MonkeyPatch, template: Path, tmp_path: Path
) -> None:
    """A downloaded archive has no repository."""
    archive = tmp_path / "archive"
    shutil.copytree(template, archive)
    (archive / PROJECT / ".env").write_text("JWT_SECRET=mine\n")
    (archive / "notes.txt").write_text("")
    monkeypatch.setattr("scripts.bake.ROOT", archive)
    monkeypatch.setenv("PATH", "")
    exported = BakedProject(export(tmp_path / "exported"))
    assert exported.files() == BakedProject(template).files()

"""Unusual answers are kept unchanged; invalid ones are refused with a sentence."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from scripts.bake import BakeError
from tests.baked import BakedProject, environment
from tests.template.conftest import ANSWERS, Bake

HOSTILE = {
    'Bob\'s "Best" BFF': "bob-s-best-bff",
    "Käse & Brötchen GmbH": "kase-brotchen-gmbh",
    "back\\slash \\n \\": "back-slash-n",
    "<b>$HOME `id` ${PORT} %s # ; | *": "b-home-id-port-s",
    "日本語 BFF 😀": "ri-ben-yu-bff",
    "x" * 90: "x" * 40,
}


def check_is_whole(project: BakedProject, name: str, slug: str) -> None:
    metadata = tomllib.loads(project.read("pyproject.toml"))["project"]
    assert metadata["name"] == slug
    assert metadata["description"] == name
    assert metadata["authors"][0]["name"] == name
    assert name in project.read("LICENSE")
    for file in ("compose.yaml", ".github/workflows/ci.yml"):
        yaml.safe_load(project.read(file))
    assert f"\nAPP_NAME={slug}\n" in project.read(".env")


@pytest.mark.parametrize(("name", "slug"), HOSTILE.items())
def test_an_unusual_name_is_kept(bake: Bake, name: str, slug: str) -> None:
    project = bake(project_name=name, description=name, author_name=name)
    assert project.path.name == slug
    check_is_whole(project, name, slug)


def test_typed_answers_are_never_rendered(template: Path, tmp_path: Path) -> None:
    """On the command line cookiecutter renders answers itself; what is typed stays as it is."""
    name = 'Bob\'s "Best" {{ 7 * 7 }} {% ü {#'
    typed = {**dict.fromkeys(ANSWERS, ""), "project_name": name, "description": name}
    typed["author_name"] = name
    done = subprocess.run(
        [sys.executable, "-m", "cookiecutter", template, "--default-config", "-o", tmp_path],
        input="".join(f"{answer}\n" for answer in typed.values()),
        env=environment(HOME=str(tmp_path / "home")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_is_whole(BakedProject(tmp_path / "bob-s-best-7-7-u"), name, "bob-s-best-7-7-u")


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("project_slug", "Shop", "must begin with a letter a-z"),
        ("project_slug", "9lives", "must begin with a letter a-z"),
        ("project_slug", "shop_bff", "must begin with a letter a-z"),
        ("project_slug", "shop-", "must begin with a letter a-z"),
        ("project_slug", "../shop", "must begin with a letter a-z"),
        ("project_slug", "a" * 42, "at most 41 characters"),
        ("project_slug", "fastapi", "is the name of a package"),
        ("project_slug", "bff", "is the name of a package"),
        ("project_name", " ", "The project name is empty."),
        ("project_name", "two\nlines", "The project name contains a line break"),
        ("description", "bell\x07", "The description contains a line break"),
        ("author_name", "", "The author name is empty."),
        ("author_email", "nobody", "is not an e-mail address"),
        ("author_email", 'a"@b.c', "is not an e-mail address"),
    ],
)
def test_a_bad_answer_is_refused_in_a_sentence(
    bake: Bake, question: str, answer: str, sentence: str
) -> None:
    answers = {"project_slug": "shop"} | {question: answer}
    with pytest.raises(BakeError, match=sentence) as refused:
        bake(**answers)
    assert "Traceback" not in str(refused.value).split("Stopping generation")[0]


def test_the_longest_slug_is_accepted(bake: Bake) -> None:
    assert bake(project_slug="a" * 41).path.name == "a" * 41


def test_no_project_can_be_named_like_a_package_that_it_needs(
    default: BakedProject, template: Path
) -> None:
    needed = default.dependencies() + default.development_dependencies()
    hook = (template / "hooks" / "pre_gen_project.py").read_text()
    taken = re.findall(r'^        "([a-z0-9-]+)",$', hook, flags=re.M)
    assert {Requirement(line).name for line in needed} <= set(taken)
    assert {"app", "bff", "client", "migrations", "tests"} <= set(taken)


def test_the_next_commands_name_the_folder(template: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cookiecutter", template, "--default-config", "--no-input"],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path), PWD=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "    cd my-bff\n    make dev" in done.stdout

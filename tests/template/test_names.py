"""Unusual answers are kept unchanged; invalid ones are refused with a sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from needs_cookiecutter_2_2 import OWN, refused_name
from scripts.bake import PROJECT, BakeError
from tests.baked import BakedProject
from tests.template.conftest import ANSWERS, Bake
from tests.template.test_cookiecutter import cookiecutter
from tests.template.test_locks import Lock

HOSTILE = {
    'Bob\'s "Best" BFF': "bob-s-best-bff",
    "Käse & Brötchen GmbH": "kase-brotchen-gmbh",
    "back\\slash \\n \\": "back-slash-n",
    "<b>$HOME `id` ${PORT} %s # ; | *": "b-home-id-port-s",
    "日本語 BFF 😀": "ri-ben-yu-bff",
    "x" * 90: "x" * 40,
    "3D Print Shop": "bff-3d-print-shop",
    "9" * 90: "bff-" + "9" * 36,
    "🛒": "my-bff",
    "Orders": "orders-bff",
    "Redis": "redis-bff",
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
    answers = "".join(f"{answer}\n" for answer in typed.values())
    done = cookiecutter(template, cwd=tmp_path, typed=answers)
    assert done.returncode == 0, done.stdout
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
        ("project_slug", "starlette", "is the name of a package"),
        ("project_slug", "bff", "is the name of a package"),
        ("project_slug", "orders", "is the name of the example's mesh service"),
        ("project_slug", "", "The project slug is empty."),
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
    assert "Traceback" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_the_longest_slug_is_accepted(bake: Bake) -> None:
    assert bake(project_slug="a" * 41).path.name == "a" * 41


def test_a_bad_slug_is_refused_before_the_next_question(template: Path, tmp_path: Path) -> None:
    done = cookiecutter(template, cwd=tmp_path, typed="Shop\n9lives\n")
    assert done.returncode == 1
    assert "The project slug '9lives' is invalid" in done.stdout
    assert "Description" not in done.stdout
    assert "Traceback" not in done.stdout


def test_no_project_can_be_named_like_a_package_in_its_environment(template: Path) -> None:
    """Direct and indirect dependencies, and what an environment contains from the start."""
    needed = Lock.read(template / PROJECT / "requirements-dev.lock").versions
    assert needed.keys() | {"app", "bff", "client", "migrations", "pip", "tests"} <= {
        name for name in [*needed, *OWN] if refused_name(name)
    }
    assert {"starlette", "pydantic", "anyio"} <= needed.keys()


def test_the_next_commands_name_the_folder(template: Path, tmp_path: Path) -> None:
    done = cookiecutter(template, "--no-input", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "    cd my-bff\n    make dev" in done.stdout

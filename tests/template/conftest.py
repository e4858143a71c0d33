"""Baking for the tests of the template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from scripts.bake import ROOT, bake
from tests.baked import BakedProject

collect_ignore = ["projects"]
"""Tests of generated projects, which `test_projects.py` runs in one."""

ANSWERS: dict[str, Any] = {
    name: value
    for name, value in json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8")).items()
    if not name.startswith("_")
}
"""The questions of cookiecutter.json; the value of a choice is the list of its options."""

CHOICES = [
    (question, option)
    for question, options in ANSWERS.items()
    if isinstance(options, list)
    for option in options
]


class Bake(Protocol):
    def __call__(self, **options: str) -> BakedProject: ...


@pytest.fixture(name="bake")
def bake_fixture(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Bake a project of the test's own: `bake(ci="gitlab")`."""

    def baked(**options: str) -> BakedProject:
        return BakedProject(bake(template, tmp_path_factory.mktemp("baked"), options))

    return baked


@pytest.fixture(scope="session")
def default(template: Path, tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """The project that the default answers give; tests only read it."""
    return BakedProject(bake(template, tmp_path_factory.mktemp("default")))

"""Apps of earlier versions run on the current engine."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.template.conftest import Bake

PROJECTS = Path(__file__).parent / "projects"
USERS = ("app", "tests", "migrations/versions")


@pytest.mark.parametrize("version", sorted(path.name for path in PROJECTS.glob("*.*.*")))
def test_the_app_of_an_earlier_version_passes_its_tests(bake: Bake, version: str) -> None:
    project = bake()
    for folder in USERS:
        shutil.rmtree(project.path / folder)
        shutil.copytree(PROJECTS / version / folder, project.path / folder)
    linted = project.run(sys.executable, "-m", "ruff", "check", "--no-cache", "app", "tests")
    assert linted.returncode == 0, linted.stdout
    done = project.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout

"""A project on later Pythons than the oldest, as far as this machine has them. CI runs all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.bake import bake
from tests.baked import BakedProject
from tests.template.test_schemas import PYTHONS


def interpreter(version: str) -> Path:
    """Of pyenv, or in PATH. Skips the test where there is none."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = shutil.which(f"python{version}")
    if pyenv:
        return pyenv[-1]
    if found is None:
        pytest.skip(f"there is no Python {version} here")
    return Path(found)


@pytest.mark.long
@pytest.mark.parametrize("version", PYTHONS[1:])
def test_a_project_is_installed_and_passes_lint_and_tests(
    version: str, template: Path, tmp_path: Path
) -> None:
    python = interpreter(version)
    project = BakedProject(bake(template, tmp_path))
    done = project.run("make", "lint", "test", f"PYTHON={python}")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert (project.path / ".venv" / "lib" / f"python{version}").exists()

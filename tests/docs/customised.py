"""A generated project with all examples of `docs/customise.md`."""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.bake import PROJECT, ROOT
from tests.baked import InstalledProject

EXAMPLES = ROOT / "docs" / "examples"
PAGE = ROOT / PROJECT / "docs" / "customise.md"
OVERLAY = ("app", "migrations", "tests")
"""Folders of examples that are copied into a project."""


def customise(installed: InstalledProject, into: Path) -> InstalledProject:
    """Copy a project and add all examples of `docs/customise.md` to the copy."""
    project = installed.copy(into)
    for folder in OVERLAY:
        shutil.copytree(EXAMPLES / folder, into / folder, dirs_exist_ok=True)
    added = (EXAMPLES / "env.example.txt").read_text(encoding="utf-8")
    settings = f"{project.read('.env.example')}\n{added}"
    (into / ".env.example").write_text(settings, encoding="utf-8")
    return project

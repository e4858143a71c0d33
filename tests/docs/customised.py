"""A generated project with every example of the docs in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.bake import KEPT, ROOT
from tests.baked import InstalledProject

EXAMPLES = ROOT / "docs" / "examples"
FRAGMENTS = EXAMPLES / "fragments"
OVERLAY = ("app", "migrations", "tests")
"""Folders of examples that are whole files of a project."""
AFTER_SETTINGS = "\n    @property\n    def development"


def customise(installed: InstalledProject, into: Path) -> InstalledProject:
    """Copy a project and do to the copy what `docs/customise.md` tells."""
    shutil.copytree(installed.path, into, ignore=shutil.ignore_patterns(*KEPT))
    for folder in OVERLAY:
        shutil.copytree(EXAMPLES / folder, into / folder, dirs_exist_ok=True)
    tables = into / "app" / "db" / "tables.py"
    _write(tables, f"{_read(tables)}\n\n{_fragment('app/db/tables.py.txt')}")
    settings = into / "app" / "settings.py"
    fields, mark, rest = _read(settings).partition(AFTER_SETTINGS)
    assert mark, "app/settings.py has changed: where do the fields end now?"
    _write(settings, f"{fields}\n{_fragment('app/settings.py.txt')}{mark}{rest}")
    example = into / ".env.example"
    _write(example, f"{_read(example)}\n{_fragment('env.example.txt')}")
    return InstalledProject(into, installed.venv)


def _fragment(name: str) -> str:
    return _read(FRAGMENTS / name)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

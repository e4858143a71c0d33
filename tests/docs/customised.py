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
CLIENT = "from app.mesh import client as mesh_client\n"
AFTER_MESH = "    mesh = mesh_client.connect(settings, metrics, broker=broker)\n"
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
    added = _fragment("app/settings.py.txt") + _fragment("app/ledger_settings.py.txt")
    _write(settings, f"{fields}\n{added}{mark}{rest}")
    example = into / ".env.example"
    _write(
        example, f"{_read(example)}\n{_fragment('env.example.txt')}{_fragment('env.ledger.txt')}"
    )
    main = into / "app" / "main.py"
    before, mark, rest = _read(main).partition(AFTER_MESH)
    assert mark, "app/main.py has changed: where is the mesh made now?"
    before = before.replace(CLIENT, f"{CLIENT}from app.mesh import jsonrpc\n")
    _write(main, f"{before}{mark}{_fragment('app/main.py.txt')}{rest}")
    return InstalledProject(into, installed.venv)


def _fragment(name: str) -> str:
    return _read(FRAGMENTS / name)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

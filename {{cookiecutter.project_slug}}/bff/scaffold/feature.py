"""Plans and writes a feature: all of its files, or none."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import rev_id

from bff.scaffold.text import Feature, module, render, test_module

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_ROUTES: Final = Path("app/routes/__init__.py")
_TABLES: Final = Path("app/tables.py")
_TOOL_SECONDS: Final = 60
"""The time limit of each run of ruff, and of the start of the app."""
_TABLE_IMPORTS: Final = """\
import uuid
from datetime import UTC, datetime
from sqlalchemy import Column, Index, String
from sqlmodel import Field
from bff import UtcDateTime
"""


class Refused(Exception):
    """The feature cannot be written; nothing was changed."""


def write(feature: Feature) -> list[Path]:
    """Write a feature into the project in the current folder; returns the changed files.

    Raises:
        Refused: a name is not valid or exists, or the app does not start with the feature.
    """
    _check_names(feature)
    planned = _plan(feature)
    before = {path: path.read_text(encoding="utf-8") if path.exists() else None for path in planned}
    try:
        for path, text in planned.items():
            path.write_text(text, encoding="utf-8")
        _format(list(planned))
        _check_app()
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(old, encoding="utf-8")
        raise
    return list(planned)


def _check_names(feature: Feature) -> None:
    if feature.is_empty and not feature.table:
        raise Refused("Say what the feature offers: --expose, --method, --topic, --event, --table")
    calls = (*feature.exposed, *feature.methods)
    for name in (feature.name, *calls, *feature.topics, *feature.events):
        if not _NAME.fullmatch(name) or keyword.iskeyword(name):
            raise Refused(f"{name!r} is not a name: use a-z, 0-9 and _, and begin with a letter")
    if feature.name in dir(builtins) or feature.one in ("event", "messenger", "realtime", "params"):
        raise Refused(f"{feature.name!r} has a meaning in the code of a feature: choose another")
    for names in (calls, feature.topics, feature.events):
        if twice := {name for name in names if names.count(name) > 1}:
            raise Refused(f"{', '.join(sorted(twice))} is named twice")
    if both := set(feature.topics) & set(feature.events):
        raise Refused(f"{', '.join(sorted(both))} is a topic and an event: rename one")


def _plan(feature: Feature) -> dict[Path, str]:
    """The text of each file that is written."""
    routes, tables = _read(_ROUTES), _read(_TABLES) if feature.table else ""
    planned: dict[Path, str] = {}
    if not feature.is_empty:
        planned[Path(f"app/routes/{feature.name}.py")] = module(feature)
    planned[Path(f"tests/test_{feature.name}.py")] = test_module(feature)
    if feature.table:
        revision, text = _migration(feature)
        planned[Path(f"migrations/versions/{revision}_add_{feature.one}.py")] = text
    for path in planned:
        if path.exists():
            raise Refused(f"{path} exists already")
    if not feature.is_empty:
        planned[_ROUTES] = _registered(routes, feature.name)
    if feature.table:
        planned[_TABLES] = _with_table(tables, feature)
    return planned


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{path} is missing: run this in the folder of a project") from None


def _registered(text: str, name: str) -> str:
    """`app/routes/__init__.py` with the feature imported, and its router in `REALTIME`."""
    lines = text.splitlines(keepends=True)
    imported = listed = None
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module == "app.routes":
            imported = node
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REALTIME":
            listed = node.value
    if imported is None or not isinstance(listed, ast.List):
        raise Refused(f"{_ROUTES} has no `from app.routes import …`, or no list REALTIME")
    names = {alias.name for alias in imported.names}
    if name in names:
        raise Refused(f"{_ROUTES} lists {name} already")
    assert listed.end_lineno is not None  # noqa: S101
    assert listed.end_col_offset is not None  # noqa: S101
    end = listed.end_lineno - 1
    inside, rest = _split(lines[end], listed.end_col_offset - 1)
    if not inside.strip():
        lines.insert(end, f"    {name}.realtime,\n")
    else:
        comma = ", " if listed.elts and not inside.rstrip().endswith(",") else ""
        lines[end] = f"{inside}{comma}{name}.realtime{rest}"
    statement = f"from app.routes import {', '.join(sorted({*names, name}))}\n"
    assert imported.end_lineno is not None  # noqa: S101
    lines[imported.lineno - 1 : imported.end_lineno] = [statement]
    return "".join(lines)


def _split(line: str, offset: int) -> tuple[str, str]:
    """The line before and from an offset of `ast`, which counts bytes."""
    encoded = line.encode()
    return encoded[:offset].decode(), encoded[offset:].decode()


def _with_table(text: str, feature: Feature) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == feature.table_class:
            raise Refused(f"{_TABLES} has a class {feature.table_class} already")
        if isinstance(node, ast.Constant) and node.value == feature.one:
            raise Refused(f"{_TABLES} has a table {feature.one} already")
    first = next(
        node.lineno
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    )
    lines = text.splitlines(keepends=True)
    lines.insert(first - 1, _TABLE_IMPORTS)
    return "".join(lines).rstrip() + "\n" + render("table", feature.names())


def _migration(feature: Feature) -> tuple[str, str]:
    """The id of the next revision, and its text."""
    script = ScriptDirectory.from_config(Config(toml_file="pyproject.toml"))
    heads = script.get_heads()
    if len(heads) > 1:
        raise Refused("migrations/versions has several heads: merge them first")
    revision = rev_id()
    down = f'"{heads[0]}"' if heads else "None"
    names = feature.names() | {"revision": revision, "down_revision": down}
    return revision, render("migration", names)


def _format(paths: list[Path]) -> None:
    """Sort imports and format, if ruff is installed: it is one of the tools of `make install`."""
    for command in (("check", "--fix", "--select", "I,F401"), ("format",)):
        _run("-m", "ruff", *command, "--quiet", *map(str, paths))


def _check_app() -> None:
    """
    Raises:
        Refused: the app does not start.
    """
    done = _run("-m", "bff.cli", "types")
    if done.returncode:
        last = (done.stdout or "").strip().splitlines()[-1:]
        raise Refused(
            f"The app does not start with the new feature; all changes are undone: {''.join(last)}"
        )


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Raises:
        Refused: it takes too long.
    """
    try:
        return subprocess.run(  # noqa: S603
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TOOL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        command = " ".join(("python", *arguments[:3]))
        raise Refused(
            f"`{command}` did not end within {_TOOL_SECONDS} s; all changes are undone"
        ) from None

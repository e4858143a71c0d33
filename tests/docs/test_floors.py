"""Imports in the generated project run down the floors (`docs/architecture.md`), never up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from scripts.bake import PROJECT, ROOT

APP = ROOT / PROJECT / "app"

FLOORS = (
    {"settings", "errors", "backoff"},
    {"telemetry", "db", "mesh", "connections"},
    {"cluster"},
    {"realtime", "auth", "broadcasts"},
    {"routes", "development"},
    {"lifespan", "main"},
    {"server", "cli", "diagnosis"},
)
"""From the ground up."""
STRANGERS = [("mesh", "connections"), ("mesh", "cluster"), ("connections", "mesh")]
"""Engine rooms that do not know each other although the floors would allow it."""

FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(path: Path) -> str:
    return path.relative_to(APP).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted(APP.rglob("*.py")) if room_of(path) != "__init__"]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of `app`; those for type checkers alone count too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("app."):
                yield node.lineno, name.split(".")[1]


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in modules()} == set(FLOOR_OF)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(APP)))
def test_no_import_runs_up(path: Path) -> None:
    own = FLOOR_OF[room_of(path)]
    up = [f"line {line}: {room}" for line, room in imports(path) if FLOOR_OF[room] > own]
    assert not up


def test_rooms_form_no_circle() -> None:
    graph: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
    for path in modules():
        here = room_of(path)
        graph[here] |= {room for _, room in imports(path)} - {here}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {error.args[1]}") from None


def test_engine_rooms_do_not_know_each_other() -> None:
    known = {(room_of(path), room) for path in modules() for _, room in imports(path)}
    assert not known & set(STRANGERS)


def test_the_page_shows_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.split("```")[1].strip().splitlines()
    assert len(drawing) == len(FLOORS)
    for line, floor in zip(drawing, reversed(FLOORS), strict=True):
        shown = line.split("  ")[0]
        assert {room.strip() for room in shown.split(",")} == floor

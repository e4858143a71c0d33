"""A pytest plugin that records which lines of the engine each test runs, and how long it takes.

`MUTATION_TRACE` names the file for the record.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import bff
import pytest

_ENGINE = str(Path(bff.__file__).parent) + os.sep
_lines: set[tuple[str, int]] = set()
_record: dict[str, dict[str, Any]] = {}
_MAX_SECONDS = 3.0
"""A test is traced for this time, because tracing makes it slower."""
_until = 0.0
_failed: set[str] = set()
_imported: dict[str, set[tuple[str, int]]] = {}
"""What a module of tests runs when it is imported: the declarations of its routers."""


def _enter(frame: FrameType, event: str, _: object) -> Any:
    if not frame.f_code.co_filename.startswith(_ENGINE):
        return None
    if time.monotonic() > _until:
        sys.settrace(None)
        return None
    return _line


def _line(frame: FrameType, event: str, _: object) -> Any:
    _lines.add((frame.f_code.co_filename, frame.f_lineno))
    return _line


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, object, object]:
    global _until
    _lines.clear()
    _until = time.monotonic() + _MAX_SECONDS
    sys.settrace(_enter)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        _imported[collector.nodeid] = set(_lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _until
    _lines.clear()
    began = time.monotonic()
    _until = began + _MAX_SECONDS
    threading.settrace(_enter)
    sys.settrace(_enter)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        ran = _lines | _imported.get(item.nodeid.partition("::")[0], set())
        lines = sorted(f"{path.removeprefix(_ENGINE)}:{line}" for path, line in ran)
        _record[item.nodeid] = {"seconds": time.monotonic() - began, "lines": lines}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    passed = {name: facts for name, facts in _record.items() if name not in _failed}
    Path(os.environ["MUTATION_TRACE"]).write_text(json.dumps(passed))

"""Extracts from CHANGELOG.md what a user must do between two versions."""

from __future__ import annotations

import re

SECTION = re.compile(r"^## v?(\d+(?:\.\d+)*).*\n", re.MULTILINE)
TO_DO = re.compile(r"^### What you must do *\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)


def to_do(changelog: str, old: str, new: str) -> dict[str, str]:
    """The text under "What you must do" for each version after `old` up to `new`, oldest first."""
    parts = SECTION.split(changelog)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    wanted = [v for v in sections if _numbers(old) < _numbers(v) <= _numbers(new)]
    found = {v: TO_DO.search(sections[v]) for v in sorted(wanted, key=_numbers)}
    return {version: match[1].strip() for version, match in found.items() if match}


def _numbers(version: str) -> tuple[int, ...]:
    """Numbers to compare, so that `0.10.0` is later than `0.9.0`. A suffix (`rc1`) is ignored."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()

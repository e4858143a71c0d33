"""Applies a plan to the project: all of it, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from bff.update.plan import File, read_file


def write(project: Path, changes: Mapping[str, File | None]) -> None:
    """Write and remove files. On an error or Ctrl-C, all changes are undone.

    Raises:
        OSError: a file cannot be written; the project is unchanged.
    """
    before = {name: read_file(project / name) for name in changes}
    try:
        _put(project, changes)
    except BaseException:
        _put(project, before)
        raise


def _put(project: Path, files: Mapping[str, File | None]) -> None:
    for path in [project / name for name, file in files.items() if file is None]:
        if path.is_file():
            path.unlink()
            _remove_empty_folders(project, path.parent)
    for name, file in files.items():
        if file is not None:
            _put_file(project / name, file)


def _put_file(path: Path, file: File) -> None:
    """Write to a temporary file and rename it, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    try:
        partial.write_bytes(file.content)
        partial.chmod(file.mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_empty_folders(project: Path, folder: Path) -> None:
    while folder != project:
        left = list(folder.iterdir())
        if [path.name for path in left] == ["__pycache__"]:
            shutil.rmtree(left[0])
        elif left:
            return
        folder.rmdir()
        folder = folder.parent

"""Generates a project from the working tree, without the files that git ignores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "{{cookiecutter.project_slug}}"
PARTS = ("cookiecutter.json", "needs_cookiecutter_2_2.py", "hooks", "templates", PROJECT)
KEPT = (".env", ".venv", "*.sqlite3*", "__pycache__", ".*_cache", "*.egg-info")
"""Files of a project that a new bake does not change."""


def template_files() -> list[Path]:
    """The template's files, relative to the repository: tracked, or untracked and not ignored.

    Without git, or in a downloaded archive: all files but those in `KEPT`.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        paths = {Path(name) for name in done.stdout.split("\0") if name}
    except FileNotFoundError:
        paths = set()
    if not paths:
        paths = {path for part in PARTS for path in (Path(part), *_files(ROOT, Path(part)))}
    return sorted(path for path in paths if (ROOT / path).is_file())


def export(into: Path) -> Path:
    """Copy the template's files into a folder and return it."""
    for path in template_files():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, into / path)
    return into


class BakeError(Exception):
    """Cookiecutter failed; the message is its output."""


def bake(
    template: Path,
    into: Path,
    options: Mapping[str, str] = MappingProxyType({}),
    *,
    hooks: bool = True,
) -> Path:
    """Generate a project and return its folder. Options that are not given have their defaults.

    Raises:
        BakeError: an answer was refused, `into` holds such a project, or the template is broken.
    """
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input"]
    command += ["--default-config", "--output-dir", str(into)]
    command += ["--accept-hooks", "yes" if hooks else "no"]
    command += [f"{name}={value}" for name, value in options.items()]
    # Cookiecutter stores the answers of each run in the home folder: use a temporary one.
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            command,
            env={**os.environ, "HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        raise BakeError(done.stdout)
    (project,) = into.iterdir()
    return project


def bring_up_to_date(project: Path, fresh: Path) -> None:
    """Make `project` equal to `fresh`, except for `KEPT`. Equal files keep their modification time,
    so that make does not install again."""
    wanted = set(_files(fresh))
    for path in set(_files(project)) - wanted:
        (project / path).unlink()
    for path in wanted:
        old, new = project / path, fresh / path
        if not old.is_file() or old.read_bytes() != new.read_bytes():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(new, old)
    if not (project / ".env").exists():
        shutil.copy2(fresh / ".env", project / ".env")


def _files(folder: Path, below: Path = Path()) -> Iterator[Path]:
    if not (folder / below).is_dir():
        return
    for path in (folder / below).iterdir():
        if any(fnmatch(path.name, pattern) for pattern in KEPT):
            continue
        if path.is_dir():
            yield from _files(folder, below / path.name)
        else:
            yield below / path.name


def main(into: Path, options: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        template = export(Path(folder, "template"))
        fresh = bake(template, Path(folder, "baked"), options)
        bring_up_to_date(into / fresh.name, fresh)
    print(f"Generated {into / fresh.name}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:]))
    except BakeError as error:
        sys.exit(str(error))

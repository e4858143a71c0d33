"""The git commands of an update."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from bff.update.errors import UpdateError
from bff.update.record import PROJECT_JSON

MAX_CONFLICTS = 127
"""`git merge-file` exits with the number of conflicts, at most this; a higher code is an error."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder. The caller checks the exit code.

    Raises:
        UpdateError: git is not installed.
    """
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True)  # noqa: S603, S607
    except FileNotFoundError:
        raise UpdateError("An update needs git to merge files. Install git first.") from None


def check_is_clean(project: Path) -> None:
    """Check that everything is committed, so that an update can be undone.

    Raises:
        UpdateError: the project is not in a repository, is not committed, or has changes.
    """
    if run(project, "ls-files", "--error-unmatch", PROJECT_JSON).returncode:
        raise UpdateError(
            "This project is not committed to git. Commit it first, so that you can review and "
            "undo the update: git init && git add --all && git commit -m 'Before the update'"
        )
    if run(project, "status", "--porcelain", "--", ".").stdout.strip():
        raise UpdateError(
            "The project has uncommitted changes. Commit or stash them, then update again."
        )


def tracked(project: Path) -> set[str]:
    """The files that git tracks, relative to the project."""
    output = run(project, "ls-files", "-z", "--", ".").stdout.decode()
    return {name for name in output.split("\0") if name}


def clone(address: str, checkout: str, into: Path) -> Path:
    """Clone a local repository and return the path of the clone.

    Raises:
        UpdateError: cloning failed, or there is no such branch, tag or commit.
    """
    done = run(into, "clone", "--quiet", "--", address, "clone")
    if done.returncode == 0 and checkout:
        done = run(into / "clone", "checkout", "--quiet", checkout, "--")
    if done.returncode:
        raise UpdateError(done.stderr.decode(errors="replace").strip())
    return into / "clone"


def merge(ours: bytes, base: bytes, theirs: bytes, version: str) -> tuple[bytes, bool]:
    """Merge two versions of a file. Returns the merged text, with conflict markers, and whether
    there are conflicts.

    A binary file is returned unchanged, as a conflict.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for name, content in (("ours", ours), ("base", base), ("theirs", theirs)):
            (path / name).write_bytes(content)
        labels = ("-L", "yours", "-L", "before", "-L", f"template {version}")
        done = run(path, "merge-file", "-p", *labels, "ours", "base", "theirs")
    if not 0 <= done.returncode <= MAX_CONFLICTS:
        return ours, True
    return done.stdout, done.returncode > 0

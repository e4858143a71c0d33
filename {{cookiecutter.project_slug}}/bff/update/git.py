"""What an update needs of git."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from bff.update.errors import UpdateError
from bff.update.record import PROJECT_JSON

MAX_CONFLICTS = 127
"""`git merge-file` exits with the number of conflicts, this at most; above it, it has failed."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder; its exit code is the caller's business.

    Raises:
        UpdateError: git is not installed.
    """
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True)  # noqa: S603, S607
    except FileNotFoundError:
        raise UpdateError("An update needs git to merge files. Install git first.") from None


def check_is_clean(project: Path) -> None:
    """See that every change of the project is committed, so that an update can be undone.

    Raises:
        UpdateError: the project is in no repository, is not committed, or has changes.
    """
    if run(project, "ls-files", "--error-unmatch", PROJECT_JSON).returncode:
        raise UpdateError(
            "This project is not committed to git. An update needs that, so that you can see and "
            "undo what it changes: git init && git add --all && git commit -m 'Before the update'"
        )
    if run(project, "status", "--porcelain", "--", ".").stdout.strip():
        raise UpdateError(
            "The project has uncommitted changes. Commit or stash them, then update again."
        )


def tracked(project: Path) -> set[str]:
    """The committed files, relative to the project."""
    output = run(project, "ls-files", "-z", "--", ".").stdout.decode()
    return {name for name in output.split("\0") if name}


def clone(address: str, checkout: str, into: Path) -> Path:
    """Clone a repository of this machine and return the clone.

    Raises:
        UpdateError: it cannot be cloned, or has no such branch, tag or commit.
    """
    done = run(into, "clone", "--quiet", "--", address, "clone")
    if done.returncode == 0 and checkout:
        done = run(into / "clone", "checkout", "--quiet", checkout, "--")
    if done.returncode:
        raise UpdateError(done.stderr.decode(errors="replace").strip())
    return into / "clone"


def merge(ours: bytes, base: bytes, theirs: bytes, version: str) -> tuple[bytes, bool]:
    """The text with both changes, and whether there are conflicts, marked in it.

    A file that is not text is left as it is, which counts as a conflict.
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

"""Computes the changes of an update before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bff.update import git
from bff.update.record import Owner, Record, digest, owner


@dataclass(frozen=True)
class File:
    content: bytes
    mode: int


def read_file(path: Path) -> File | None:
    """A file with its permissions; None if it does not exist."""
    return File(path.read_bytes(), path.stat().st_mode & 0o777) if path.is_file() else None


@dataclass
class Plan:
    """Every file to write (None: to remove), and what to report to the user."""

    changes: dict[str, File | None] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)
    """Engine files that the user has edited, and how: `added`, `changed`, `deleted`."""
    conflicts: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Files that the template no longer has, but that the user has changed."""
    new_locks: list[str] = field(default_factory=list)
    stale_locks: list[str] = field(default_factory=list)
    """Lock files that the user has changed, although the template's have changed too."""


@dataclass(frozen=True)
class Planner:
    """Compares a project with `fresh`, the project as the newer template generates it."""

    project: Path
    old: Record
    fresh: Path
    new: Record
    plan: Plan = field(default_factory=Plan)

    def make(self, tracked: set[str], record: Record) -> Plan:
        """Compute the plan. `tracked`: the files that git tracks; `record`: the new content of
        `.bff/`, which is written last, so that it never describes files that are not written
        yet."""
        in_engine = {name for name in tracked if owner(name) is Owner.ENGINE}
        for name in sorted({*in_engine, *self.old.engine, *self.new.engine}):
            if name not in self.new.base:
                self._engine(name)
        for name in sorted({*self.old.base, *self.new.base} - {*self.new.engine}):
            self._shared(name)
        for name in sorted({*self.old.locks, *self.new.locks}):
            self._lock(name)
        for name, content in record.files().items():
            self._write(name, File(content, 0o644))
        return self.plan

    def _engine(self, name: str) -> None:
        ours, pristine = read_file(self.project / name), self._pristine(name)
        theirs = read_file(self.fresh / name) if name in self.new.engine else None
        if _content(ours) == _content(theirs):
            return
        if ours is None and pristine is not None:
            self.plan.edited[name] = "deleted"
        elif ours is not None and pristine is None:
            self.plan.edited[name] = "added"
        elif ours is not None and digest(ours.content) != pristine:
            self.plan.edited[name] = "changed"
        self.plan.changes[name] = theirs

    def _pristine(self, name: str) -> str | None:
        """The SHA-256 of the file as the old template generated it."""
        if name in self.old.base:
            return digest(self.old.base[name])
        return self.old.engine.get(name)

    def _shared(self, name: str) -> None:
        ours = read_file(self.project / name)
        base, theirs = self.old.base.get(name), read_file(self.fresh / name)
        if name not in self.new.base:
            self._dropped(name, ours, base, still_made=theirs is not None)
        elif ours is None:
            if base is None:
                self._write(name, theirs)
        elif ours.content == base or digest(ours.content) == self.old.engine.get(name):
            self._write(name, theirs)
        elif theirs is not None and theirs.content not in (base, ours.content):
            merged, conflict = git.merge(
                ours.content, base or b"", theirs.content, self.new.version
            )
            self._write(name, File(merged, ours.mode))
            if conflict:
                self.plan.conflicts.append(name)

    def _dropped(self, name: str, ours: File | None, base: bytes | None, still_made: bool) -> None:
        """A file that is no longer shared: removed from the template, or now owned by the user."""
        if ours is None or still_made:
            return
        if ours.content == base:
            self.plan.changes[name] = None
        else:
            self.plan.kept.append(name)

    def _lock(self, name: str) -> None:
        ours, theirs = read_file(self.project / name), read_file(self.fresh / name)
        known = self.old.locks.get(name)
        if _content(ours) == _content(theirs) or (ours is None and known is not None):
            return
        if ours is None or digest(ours.content) == known:
            self.plan.changes[name] = theirs
            self.plan.new_locks.append(name)
        elif theirs is None:
            self.plan.kept.append(name)
        elif known != self.new.locks.get(name):
            self.plan.stale_locks.append(name)

    def _write(self, name: str, file: File | None) -> None:
        if _content(read_file(self.project / name)) != _content(file):
            self.plan.changes[name] = file


def _content(file: File | None) -> bytes | None:
    return file.content if file else None

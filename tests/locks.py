"""Runs of tests share what takes long to install."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.bake import ROOT


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Only one process holds the lock of this name. It is released when the process ends."""
    folder = ROOT / "build" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

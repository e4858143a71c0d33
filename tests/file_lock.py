"""Runs of tests share what takes long to install."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.bake import ROOT


@contextmanager
def file_lock(name: str) -> Iterator[None]:
    """Hold a lock that only one process can hold at a time. The end of the process releases it."""
    folder = ROOT / "build" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

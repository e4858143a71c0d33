"""Locks the packages of npm, without addresses: `python scripts/npm_lock.py FOLDER…`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_NPM = (
    "npm",
    "install",
    "--package-lock-only",
    "--omit-lockfile-registry-resolved",
    "--no-fund",
    "--no-audit",
)

for _folder in map(Path, sys.argv[1:]):
    subprocess.run(_NPM, cwd=_folder, check=True)
    _path = _folder / "package-lock.json"
    _lock = json.loads(_path.read_text(encoding="utf-8"))
    for _package in _lock["packages"].values():
        _package.pop("funding", None)
    _path.write_text(json.dumps(_lock, indent=2) + "\n", encoding="utf-8")

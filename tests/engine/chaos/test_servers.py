"""Who lacks a server is told so, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.bake import PROJECT, ROOT


def test_without_servers_the_command_reports_what_is_missing_and_exits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seed", "7", "--folder", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT / PROJECT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("redis-server is missing. Install it: ")

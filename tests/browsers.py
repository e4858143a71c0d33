"""The browsers of this machine. A test that needs one which is missing is skipped."""

from __future__ import annotations

import shutil

import pytest


def chromium() -> str:
    return _path("chromium", "chromium-browser", "google-chrome")


def firefox() -> str:
    return _path("firefox-esr", "firefox")


def _path(*names: str) -> str:
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser: {' or '.join(names)}")
    return path

"""How the engine finds the app: the only place where it names the app's modules."""

from __future__ import annotations

import importlib
from typing import Any, Final

FACTORY: Final = "app.main:create_app"
"""A function that takes the settings and returns the FastAPI app."""
SETTINGS: Final = "app.settings:Settings"
"""The settings class, a subclass of `bff.Settings`."""


def load(target: str) -> Any:
    """Import the object that `module:name` refers to."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)

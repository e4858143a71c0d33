"""Where the app is: the one place in which the engine names it."""

from __future__ import annotations

import importlib
from typing import Any, Final

FACTORY: Final = "app.main:create_app"
"""A function of the settings that makes the FastAPI app."""
SETTINGS: Final = "app.settings:Settings"
"""The class of settings, a subclass of `bff.Settings`."""


def load(target: str) -> Any:
    """What `module:name` names."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)

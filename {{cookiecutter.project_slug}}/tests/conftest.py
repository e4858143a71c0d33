"""Loads the fixtures of the test kit. `bff` is the app, served, with embedded Redis and mesh."""

from __future__ import annotations

import pytest

from bff import Settings

pytest_plugins = ["bff.testing.plugin"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Your tests fail when the app sends an event that it does not declare."""
    return settings.model_copy(update={"require_declared_events": True})

"""Fixtures of the test kit: `bff` is the whole app, served, with embedded engines."""

pytest_plugins = ["bff.testing.plugin"]

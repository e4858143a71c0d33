"""Loads the fixtures of the test kit. `bff` is the app, served, with embedded Redis and mesh."""

pytest_plugins = ["bff.testing.plugin"]

"""The version of the engine; CHANGELOG.md says what each one asks of an app."""

__version__ = "0.2.0"

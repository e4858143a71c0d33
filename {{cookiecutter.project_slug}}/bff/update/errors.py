"""The exception of an update."""

from __future__ import annotations


class UpdateError(Exception):
    """The update was refused or failed. Nothing was changed; the message says why."""

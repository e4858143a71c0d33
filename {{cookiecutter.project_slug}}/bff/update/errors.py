"""The one error of an update."""

from __future__ import annotations


class UpdateError(Exception):
    """The update was refused or failed, and nothing was changed; the message says why."""

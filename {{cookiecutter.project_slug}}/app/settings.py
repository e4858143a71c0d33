"""Your settings, in addition to the engine's. Field `billing_url` is the variable `BILLING_URL`."""

from __future__ import annotations

import bff


class Settings(bff.Settings):
    """Add your fields here, each with a docstring below it, which `bff settings` prints. Add those
    that operators set to `.env.example` too."""

"""Your settings, beside the engine's: a field `billing_url` is the variable `BILLING_URL`."""

from __future__ import annotations

import bff


class Settings(bff.Settings):
    """Add your fields here, and to `.env.example` what operators set."""

"""Your settings, beside the engine's: a field `billing_url` is the variable `BILLING_URL`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

import bff


class Settings(bff.Settings):
    """Add your fields here, and to `.env.example` what operators set."""

    notes_per_user: Annotated[int, Field(gt=0)] = 100
    """How many notes a user may keep."""
    tenant: str = ""
    """The tenant whose browsers may connect here; empty: any."""
    billing_url: str = ""
    """The API of the billing system; empty, in development: a stand-in answers."""
    ledger_amqp_url: str = "memory://"
    """The vhost on which the ledger is."""

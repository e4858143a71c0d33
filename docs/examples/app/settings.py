"""Your settings: the field `billing_url` is the environment variable `BILLING_URL`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

import bff


class Settings(bff.Settings):
    """Your fields. Add those that operators set to `.env.example` too."""

    notes_per_user: Annotated[int, Field(gt=0)] = 100
    """The maximum number of notes of a user."""
    tenant: str = ""
    """The tenant whose browsers may connect. Empty: any tenant."""
    billing_url: str = ""
    """URL of the billing API. Empty: a stand-in answers, in development only."""
    ledger_amqp_url: str = "memory://"
    """URL of the vhost on which the ledger is."""

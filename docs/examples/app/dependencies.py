"""Dependencies of your endpoints, in addition to those of `bff.endpoints`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from app.billing import Billing
from app.settings import Settings
from bff.endpoints import provided

BillingDep = Annotated[Billing, Depends(provided(Billing))]
SettingsDep = Annotated[Settings, Depends(provided(Settings))]

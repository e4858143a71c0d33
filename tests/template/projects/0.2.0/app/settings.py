"""Settings of this app."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

import bff


class Settings(bff.Settings):
    notes_per_user: Annotated[int, Field(gt=0)] = 100

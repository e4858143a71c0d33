"""Your tables, as SQLModel classes; `make revision MESSAGE="..."` writes the migration."""

from __future__ import annotations

from sqlmodel import SQLModel

from bff import NAMING_CONVENTION

SQLModel.metadata.naming_convention = NAMING_CONVENTION

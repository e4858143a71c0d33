"""Your tables, as SQLModel classes; `make revision MESSAGE="..."` writes the migration."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sqlalchemy import Column, Index, String
from sqlmodel import Field, SQLModel

from bff import NAMING_CONVENTION, UtcDateTime

SQLModel.metadata.naming_convention = NAMING_CONVENTION


class Note(SQLModel, table=True):
    """A private note of a user."""

    __tablename__ = "note"

    id: str = Field(
        default_factory=lambda: str(uuid.uuid4()), sa_column=Column(String(36), primary_key=True)
    )
    created_at: datetime = Field(
        default_factory=lambda: datetime.now(UTC), sa_column=Column(UtcDateTime, nullable=False)
    )
    user_id: str = Field(sa_column=Column(String(128), nullable=False))
    text: str = Field(sa_column=Column(String(1000), nullable=False))

    __table_args__ = (Index(None, "user_id"),)

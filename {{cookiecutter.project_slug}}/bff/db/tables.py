"""The engine's tables. A change here needs a revision in `bff/db/migrations`: a test tells."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Enum,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
)
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

NAMING_CONVENTION: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints with names, so that a migration can change them on every database."""


_registry = registry(metadata=MetaData(naming_convention=NAMING_CONVENTION))


class EngineTable(SQLModel, registry=_registry):
    """The base of the engine's tables. They share nothing with the app's: neither the metadata,
    nor the names of classes."""

    metadata = _registry.metadata


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware on both sides, UTC in between. SQLite has no time zones of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """
        Raises:
            ValueError: the time zone is missing.
        """
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


class Audience(StrEnum):
    """Whom a broadcast is for."""

    ALL = "all"
    USERS = "users"
    CONNECTION = "connection"


_AUDIENCE = Enum(
    Audience,
    native_enum=False,
    length=16,
    values_callable=lambda kinds: [kind.value for kind in kinds],
)


class Broadcast(EngineTable, table=True):
    """What an administrator sent: who, when, to whom, what, and what became of it."""

    __tablename__ = "bff_broadcast"

    id: str = Field(default_factory=_new_id, sa_column=Column(String(36), primary_key=True))
    created_at: datetime = Field(
        default_factory=_now, sa_column=Column(UtcDateTime, nullable=False)
    )
    created_by: str = Field(sa_column=Column(String(128), nullable=False))
    audience: Audience = Field(sa_column=Column(_AUDIENCE, nullable=False))
    recipients: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    """User ids, or one connection id; nobody's for all."""
    topic: str = Field(sa_column=Column(String(255), nullable=False))
    event: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    expires_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    """Until when it greets those who connect later; None greets nobody."""
    message_ids: list[str | None] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False)
    )
    """Under which id it is stored in the stream of all, or of each recipient in their order."""
    addressed: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    """How many connections the index named; None when it is not known to be sent."""

    __table_args__ = (Index(None, "created_at", "id"), Index(None, "expires_at"))

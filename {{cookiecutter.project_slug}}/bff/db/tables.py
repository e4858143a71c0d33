"""The engine's tables. A test fails if a change has no revision in `bff/db/migrations`."""

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
"""Names of constraints. A migration can change only constraints that have a name."""


_registry = registry(metadata=MetaData(naming_convention=NAMING_CONVENTION))


class EngineTable(SQLModel, registry=_registry):
    """The base of the engine's tables, with metadata and a class registry apart from the app's."""

    metadata = _registry.metadata


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware datetime, stored as UTC. SQLite has no type with a time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """
        Raises:
            ValueError: `value` has no time zone.
        """
        if value is not None and value.tzinfo is None:
            raise ValueError("a datetime needs a time zone: pass datetime.now(UTC), for example")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


class Audience(StrEnum):
    """The recipients of a broadcast."""

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
    """The record of a broadcast that an administrator sent."""

    __tablename__ = "bff_broadcast"

    id: str = Field(default_factory=_new_id, sa_column=Column(String(36), primary_key=True))
    created_at: datetime = Field(
        default_factory=_now, sa_column=Column(UtcDateTime, nullable=False)
    )
    created_by: str = Field(sa_column=Column(String(128), nullable=False))
    audience: Audience = Field(sa_column=Column(_AUDIENCE, nullable=False))
    recipients: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    """User ids, or one connection id. Empty for all."""
    topic: str = Field(sa_column=Column(String(255), nullable=False))
    event: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    expires_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    """Until when connections that open later receive it too; None: only those open now."""
    message_ids: list[str | None] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False)
    )
    """Its message id in the stream of all, or in the stream of each recipient, in their order."""
    addressed: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    """How many connections were in the index; None if it is not known whether it was sent."""

    __table_args__ = (Index(None, "created_at", "id"), Index(None, "expires_at"))


class AuditEntry(EngineTable, table=True):
    """Who did what: a sign-in, a revocation, or an act of an administrator."""

    __tablename__ = "bff_audit"

    id: str = Field(default_factory=_new_id, sa_column=Column(String(36), primary_key=True))
    at: datetime = Field(default_factory=_now, sa_column=Column(UtcDateTime, nullable=False))
    action: str = Field(sa_column=Column(String(64), nullable=False))
    outcome: str = Field(sa_column=Column(String(16), nullable=False))
    """`done`, `refused` or `failed`."""
    actor_id: str | None = Field(default=None, sa_column=Column(String(128), nullable=True))
    """Who did it; None if it is not known, or was the identity provider."""
    user_id: str | None = Field(default=None, sa_column=Column(String(128), nullable=True))
    """The user whom it concerns."""
    session_id: str | None = Field(default=None, sa_column=Column(String(128), nullable=True))
    """The session that it concerns."""
    address: str = Field(sa_column=Column(String(64), nullable=False))
    """The IP address of the request."""
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))

    __table_args__ = (
        Index(None, "at", "id"),
        Index(None, "user_id", "at"),
        Index(None, "actor_id", "at"),
    )

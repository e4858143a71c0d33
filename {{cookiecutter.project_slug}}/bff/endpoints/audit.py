"""Records what the callers of requests do, and shows it to administrators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict
from starlette.requests import HTTPConnection

from bff.audit.log import AuditLog, AuditOutcome, Detail
from bff.endpoints.dependencies import BffDep, CallerDep, address_of, bff_of
from bff.names import UserId
from bff.problems import responses

router = APIRouter()


def _in_utc(time: datetime) -> datetime:
    """The same time in UTC. At the ends of the calendar there may be none."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("not a time between the years 1 and 9999 in UTC") from None


_Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
_Text = UserId
"""A text that the database can compare: PostgreSQL refuses some that are no user ids."""


class Audit:
    """Records acts of the caller of one request."""

    def __init__(self, log: AuditLog, caller_id: str, address: str) -> None:
        self._log = log
        self._caller_id = caller_id
        self._address = address

    def record(
        self,
        action: str,
        *,
        outcome: AuditOutcome = AuditOutcome.DONE,
        user: str | None = None,
        session: str | None = None,
        **details: Detail,
    ) -> None:
        """Record an act. Never waits, never raises.

        `user` and `session` are the ids of those that it concerns. `details` must not contain
        tokens, tickets, cookies or bodies.
        """
        self._log.record(
            action,
            outcome=outcome,
            actor=self._caller_id,
            user=user,
            session=session,
            address=self._address,
            **details,
        )

    @contextmanager
    def act(
        self, action: str, *, user: str | None = None, session: str | None = None, **details: Detail
    ) -> Iterator[None]:
        """Use around an act: records it as done, or as failed if it raises an exception."""
        outcome = AuditOutcome.FAILED
        try:
            yield
            outcome = AuditOutcome.DONE
        finally:
            self.record(action, outcome=outcome, user=user, session=session, **details)


async def _audit(connection: HTTPConnection, caller: CallerDep) -> Audit:
    return Audit(bff_of(connection).audit, caller.user_id, address_of(connection))


AuditDep = Annotated[Audit, Depends(_audit)]


class AuditRecord(BaseModel):
    """Who did what."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "5b0f7a52-9a55-4f0c-8f0e-0a6c8cf3c0a1",
                    "at": "2040-01-01T12:00:00Z",
                    "action": "session_revoked",
                    "outcome": "done",
                    "actor_id": "carol",
                    "user_id": None,
                    "session_id": "nB0l1KzXk3QeWc7oP8yM4A",
                    "address": "203.0.113.7",
                    "details": {},
                }
            ]
        },
    )

    id: str
    at: datetime
    action: str
    outcome: AuditOutcome
    actor_id: str | None
    """Who did it."""
    user_id: str | None
    """The user whom it concerns."""
    session_id: str | None
    address: str
    details: dict[str, Any]


@router.get("/audit", responses=responses(404))
async def read_audit(
    bff: BffDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[_Text | None, Query(max_length=36)] = None,
    action: Annotated[_Text | None, Query(max_length=64)] = None,
    outcome: AuditOutcome | None = None,
    actor: UserId | None = None,
    user: UserId | None = None,
    session: UserId | None = None,
    since: _Time | None = None,
    until: _Time | None = None,
) -> list[AuditRecord]:
    """Who did what, the newest first. For the next page, pass the id of the last one as `before`.
    `since` is the first time, `until` the first one that is left out."""
    entries = await bff.audit.read(
        limit=limit,
        before=before,
        since=since,
        until=until,
        action=action,
        outcome=outcome,
        actor_id=actor,
        user_id=user,
        session_id=session,
    )
    return [AuditRecord.model_validate(entry) for entry in entries]

"""The caller and the caller's sessions: `/auth/me`, `/auth/sessions` (`docs/sign-in.md`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fastapi import APIRouter, status
from pydantic import BaseModel, Field

from bff.application import Bff
from bff.endpoints.audit import AuditDep
from bff.endpoints.dependencies import BffDep, CallerDep
from bff.errors import Code, Problem
from bff.problems import responses

router = APIRouter()


class Me(BaseModel):
    """The caller."""

    user_id: str
    username: str
    scopes: list[str]
    expires_at: int = Field(description="When the session or the token ends, seconds since 1970")


class OwnSession(BaseModel):
    """A session of the caller."""

    id: str
    created_at: int = Field(description="Seconds since 1970")
    expires_at: int
    address: str
    user_agent: str
    current: bool = Field(description="Whether it is the session of this request")


@router.get("/me", responses=responses(401, 403, 429, 503))
async def read_me(caller: CallerDep) -> Me:
    """Who is signed in."""
    return Me(
        user_id=caller.user_id,
        username=caller.username,
        scopes=sorted(caller.scopes),
        expires_at=caller.expires_at,
    )


@router.get("/sessions", responses=responses(401, 403, 429, 503))
async def read_sessions(caller: CallerDep, bff: BffDep) -> list[OwnSession]:
    """The sessions of the caller, the newest first."""
    return [
        OwnSession(
            id=details.sid,
            created_at=int(details.created_at),
            expires_at=details.expires_at,
            address=details.address,
            user_agent=details.user_agent,
            current=details.sid == caller.session_id,
        )
        for details in await bff.sessions.of_user(caller.user_id)
    ]


@router.delete(
    "/sessions/{sid}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=responses(401, 403, 404, 422, 429, 503),
)
async def end_own_session(sid: str, caller: CallerDep, bff: BffDep, audit: AuditDep) -> None:
    """End one of the caller's sessions, and its connections."""
    if sid not in {details.sid for details in await bff.sessions.of_user(caller.user_id)}:
        raise Problem(Code.NOT_FOUND, "You have no such session")
    with audit.act("sign_out", user=caller.user_id, session=sid):
        await end_sessions(bff, [sid])


async def end_sessions(bff: Bff, sids: Iterable[str]) -> None:
    """End sessions, and their connections on every instance."""
    await asyncio.gather(*(bff.revocations.revoke_session(sid) for sid in sids))

"""`POST /auth/ticket`: browsers cannot set headers of a WebSocket handshake, so tickets sign in."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from bff.auth.origins import origin_of
from bff.endpoints.dependencies import BffDep, CallerDep
from bff.problems import responses

router = APIRouter(prefix="/auth", tags=["auth"], responses=responses(401, 403, 429, 503))


class Ticket(BaseModel):
    """Valid once, for a short time, from the same origin: `/ws?ticket=…`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"ticket": "kXZ3h0mQ2mVbq1qk0cF3m9s6wq4T3r8yYp0H2J5nD7E", "expires_in": 30}
            ]
        }
    )

    ticket: str
    expires_in: int = Field(description="Seconds until the ticket expires")


@router.post("/ticket")
async def create_ticket(request: Request, caller: CallerDep, bff: BffDep) -> Ticket:
    """Create a single-use ticket for a WebSocket handshake."""
    bff.authenticator.check_origin(request)
    return Ticket(
        ticket=await bff.tickets.issue(caller, origin_of(request)),
        expires_in=bff.settings.ticket_seconds,
    )

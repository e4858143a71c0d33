"""Tickets: how a browser, which can give a WebSocket no header, signs in to one."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bff.auth.origins import origin_of
from bff.endpoints.dependencies import BffDep, CallerDep
from bff.problems import responses

router = APIRouter(prefix="/auth", tags=["auth"], responses=responses(401, 403, 503))


class Ticket(BaseModel):
    """Good once, for a short time, from the same origin: `/ws?ticket=…`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"ticket": "kXZ3h0mQ2mVbq1qk0cF3m9s6wq4T3r8yYp0H2J5nD7E", "expires_in": 30}
            ]
        }
    )

    ticket: str
    expires_in: int = Field(description="Seconds.")


@router.post("/ticket")
async def create_ticket(
    request: Request, response: Response, caller: CallerDep, bff: BffDep
) -> Ticket:
    """A single-use ticket for the next handshake."""
    bff.authenticator.check_origin(request)
    response.headers["Cache-Control"] = "no-store"
    return Ticket(
        ticket=await bff.tickets.issue(caller, origin_of(request)),
        expires_in=bff.settings.ticket_seconds,
    )

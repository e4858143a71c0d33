"""Reports, which the mesh service `reports` makes, and which take long."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from bff import Caller, RealtimeRouter

realtime = RealtimeRouter()


class NewReport(BaseModel):
    team: str
    year: Annotated[int, Field(ge=2000, le=2100)]


async def own_team(params: NewReport, caller: Caller) -> bool:
    return f"team:{params.team}" in caller.scopes


realtime.expose("reports", methods=["get_*", "list"], scopes=["reports"])
realtime.expose(
    "reports",
    methods=["make"],
    scopes=["reports"],
    params=NewReport,
    check=own_team,
    timeout=20,
    cancel_method="stop",
    keep_result=True,
)

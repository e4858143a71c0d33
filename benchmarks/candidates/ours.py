"""The feature file that the bench adds to the baked project: what to send, and a mesh method."""

from __future__ import annotations

from typing import Any

from bff import RealtimeRouter
from bff.endpoints import MessengerDep
from fastapi import APIRouter, Request

from benchmarks.candidates.drive import Drive

router = APIRouter(prefix="/bench")
realtime = RealtimeRouter()
realtime.expose("bench", methods=["echo"], scopes=["bench"])


@router.get("/{command}")
async def command(command: str, request: Request, messenger: MessengerDep) -> dict[str, Any]:
    drive = Drive(
        lambda text: messenger.to_all("bench", text),
        lambda user, text: messenger.to_user(user, "bench", text),
    )
    return await drive.run(command, request.query_params)

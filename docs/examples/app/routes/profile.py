"""The authenticated user."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from bff.endpoints import CallerDep, responses

router = APIRouter(prefix="/profile", tags=["profile"], responses=responses(401, 403))


class Profile(BaseModel):
    user_id: str
    username: str
    scopes: list[str]


@router.get("", summary="The caller, from the token")
async def read_profile(caller: CallerDep) -> Profile:
    caller.require("profile")
    return Profile(user_id=caller.user_id, username=caller.username, scopes=sorted(caller.scopes))

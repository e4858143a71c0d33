"""Private notes of users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from prometheus_client import Counter
from pydantic import BaseModel, Field
from sqlmodel import col, func, select

from app.dependencies import SettingsDep
from app.tables import Note
from bff import Code, Problem
from bff.endpoints import CallerDep, DatabaseDep, JsonRoute, responses

router = APIRouter(
    prefix="/notes", tags=["notes"], route_class=JsonRoute, responses=responses(401, 403, 503)
)

KEPT = Counter("notes_kept", "Notes that were stored.")


class NewNote(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=1000)]


@router.post("", status_code=201, responses=responses(409, 422))
async def create_note(
    note: NewNote, caller: CallerDep, database: DatabaseDep, settings: SettingsDep
) -> Note:
    stored = Note(user_id=caller.user_id, text=note.text)
    own = select(func.count()).where(col(Note.user_id) == caller.user_id)
    async with database.session() as session:
        if (await session.exec(own)).one() >= settings.notes_per_user:
            limit = f"A user may have {settings.notes_per_user} notes: delete one first"
            raise Problem(Code.CONFLICT, limit)
        session.add(stored)
        await session.commit()
    KEPT.inc()
    return stored


@router.get("")
async def read_notes(caller: CallerDep, database: DatabaseDep) -> list[Note]:
    own = select(Note).where(Note.user_id == caller.user_id).order_by(col(Note.created_at))
    async with database.session() as session:
        return list((await session.exec(own)).all())

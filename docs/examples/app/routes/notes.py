"""Notes that users keep for themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from sqlmodel import col, func, select

from app.db.database import Database
from app.db.tables import Note
from app.errors import Code, Problem
from app.routes.dependencies import CallerDep
from app.routes.problems import responses

router = APIRouter(prefix="/notes", tags=["notes"], responses=responses(401, 403, 503))


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _notes_per_user(request: Request) -> int:
    limit: int = request.app.state.settings.notes_per_user
    return limit


DatabaseDep = Annotated[Database, Depends(_database)]
LimitDep = Annotated[int, Depends(_notes_per_user)]


class NewNote(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=1000)]


@router.post("", status_code=201, responses=responses(409, 422))
async def create_note(
    note: NewNote, caller: CallerDep, database: DatabaseDep, limit: LimitDep
) -> Note:
    stored = Note(user_id=caller.user_id, text=note.text)
    own = select(func.count()).where(col(Note.user_id) == caller.user_id)
    async with database.session() as session:
        if (await session.exec(own)).one() >= limit:
            raise Problem(Code.CONFLICT, f"{limit} notes are the most a user may keep")
        session.add(stored)
        await session.commit()
    return stored


@router.get("")
async def read_notes(caller: CallerDep, database: DatabaseDep) -> list[Note]:
    own = select(Note).where(Note.user_id == caller.user_id).order_by(col(Note.created_at))
    async with database.session() as session:
        return list((await session.exec(own)).all())

"""Notes that users keep for themselves, and show to each other."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from prometheus_client import Counter
from pydantic import BaseModel, Field
from sqlmodel import col, func, select

from app.settings import Settings
from app.tables import Note
from app.words import Words
from bff import Caller, Code, MeshEvent, Messenger, Problem, RealtimeRouter
from bff.endpoints import CallerDep, DatabaseDep, provided, responses

router = APIRouter(prefix="/notes", tags=["notes"], responses=responses(401, 403, 503))
realtime = RealtimeRouter()

KEPT = Counter("notes_kept", "Notes that users have kept.")

SettingsDep = Annotated[Settings, Depends(provided(Settings))]
WordsDep = Annotated[Words, Depends(provided(Words))]


class NewNote(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=1000)]


class ShowNote(BaseModel):
    text: str
    user_id: str


@router.post("", status_code=201, responses=responses(409, 422))
async def create_note(
    note: NewNote,
    caller: CallerDep,
    database: DatabaseDep,
    settings: SettingsDep,
    words: WordsDep,
) -> Note:
    if not words.allow(note.text):
        raise Problem(Code.INVALID_PARAMS, "A word of the note is not allowed")
    stored = Note(user_id=caller.user_id, text=note.text)
    own = select(func.count()).where(col(Note.user_id) == caller.user_id)
    async with database.session() as session:
        if (await session.exec(own)).one() >= settings.notes_per_user:
            raise Problem(Code.CONFLICT, "There are too many notes")
        session.add(stored)
        await session.commit()
    KEPT.inc()
    return stored


@router.get("")
async def read_notes(caller: CallerDep, database: DatabaseDep) -> list[Note]:
    own = select(Note).where(Note.user_id == caller.user_id).order_by(col(Note.created_at))
    async with database.session() as session:
        return list((await session.exec(own)).all())


realtime.expose("archive", methods=["restore"], scopes=["notes"])


@realtime.method("notes.show", scopes=["notes"])
async def show(params: ShowNote, caller: Caller, messenger: Messenger) -> int:
    """Send a note to another user, and return to how many sockets it went."""
    note = {"by": caller.user_id, "text": params.text}
    sent = await messenger.to_user(params.user_id, "note.shown", note)
    return sent.addressed


@realtime.topic("notes.restored", scopes=["notes"])
async def may_follow() -> bool:
    return True


@realtime.event("archive.note.restored", name="note_restored")
async def restored(event: MeshEvent, messenger: Messenger) -> None:
    await messenger.to_user(event.payload["user_id"], "note.restored", event.payload)
    await messenger.to_topic("notes.restored", {"text": event.payload["text"]})

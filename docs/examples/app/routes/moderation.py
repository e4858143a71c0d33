"""For administrators: delete the notes of a user."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from sqlmodel import col, delete

from app.tables import Note
from bff.endpoints import DatabaseDep, requires, responses

router = APIRouter(
    prefix="/admin/users",
    tags=["admin"],
    dependencies=[Depends(requires("admin"))],
    responses=responses(401, 403, 503),
)


@router.delete("/{user_id}/notes", status_code=204)
async def delete_notes(
    user_id: Annotated[str, Path(max_length=128)], database: DatabaseDep
) -> None:
    async with database.session() as session:
        await session.exec(delete(Note).where(col(Note.user_id) == user_id))
        await session.commit()

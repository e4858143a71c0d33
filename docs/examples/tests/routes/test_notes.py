"""Notes: kept, private, and limited."""

from __future__ import annotations

from app.settings import Settings
from tests.running import run


async def test_notes_are_kept_up_to_the_limit_and_private(settings: Settings) -> None:
    settings = settings.model_copy(update={"notes_per_user": 1})
    async with run(settings) as bff, bff.http("alice") as alice, bff.http("bob") as bob:
        kept = await alice.post("/notes", json={"text": "buy tea"})
        too_many = await alice.post("/notes", json={"text": "and milk"})
        assert (kept.status_code, too_many.status_code) == (201, 409)
        assert [note["text"] for note in (await alice.get("/notes")).json()] == ["buy tea"]
        assert (await bob.get("/notes")).json() == []

"""Notes: stored, private, limited, counted, and deleted by administrators."""

from __future__ import annotations

import pytest

from app.settings import Settings
from bff.testing import RunningBff


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"notes_per_user": 1})


async def test_notes_are_private_and_limited(bff: RunningBff) -> None:
    async with bff.http("alice") as alice, bff.http("bob") as bob:
        kept = await alice.post("/notes", json={"text": "buy tea"})
        too_many = await alice.post("/notes", json={"text": "and milk"})
        assert (kept.status_code, too_many.status_code) == (201, 409)
        assert [note["text"] for note in (await alice.get("/notes")).json()] == ["buy tea"]
        assert (await bob.get("/notes")).json() == []
        assert "notes_kept_total" in (await bob.get("/metrics")).text


async def test_only_administrators_may_delete_notes(bff: RunningBff) -> None:
    async with bff.http("alice") as alice, bff.http("carol", ["admin"]) as carol:
        await alice.post("/notes", json={"text": "buy tea"})
        assert (await alice.delete("/admin/users/alice/notes")).status_code == 403
        assert (await carol.delete("/admin/users/alice/notes")).status_code == 204
        assert (await alice.get("/notes")).json() == []

"""Notes: kept, private, limited, counted, shown and restored."""

from __future__ import annotations

import pytest

from app.settings import Settings
from bff.testing import RunningBff

SCOPES = ["notes"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"notes_per_user": 1})


async def test_notes_are_kept_up_to_the_limit_and_private(bff: RunningBff) -> None:
    async with bff.http("alice") as alice, bff.http("bob") as bob:
        kept = await alice.post("/notes", json={"text": "buy tea"})
        too_many = await alice.post("/notes", json={"text": "and milk"})
        assert (kept.status_code, too_many.status_code) == (201, 409)
        assert [note["text"] for note in (await alice.get("/notes")).json()] == ["buy tea"]
        assert (await bob.get("/notes")).json() == []
        assert "notes_kept_total" in (await bob.get("/metrics")).text


async def test_the_words_of_the_app_are_asked(bff: RunningBff) -> None:
    async with bff.http("alice") as alice:
        refused = await alice.post("/notes", json={"text": f"a {bff.settings.environment}"})
        assert refused.status_code == 422
        assert refused.json()["code"] == "invalid_params"


async def test_a_note_is_shown_to_another_user(bff: RunningBff) -> None:
    async with bff.browser("alice", SCOPES) as alice, bff.browser("bob") as bob:
        shown = await alice.request("notes", "show", text="buy tea", user_id="bob")
        assert shown["result"] == 1
        assert (await bob.event("note.shown"))["event"] == {"by": "alice", "text": "buy tea"}
        assert (await bob.request("notes", "show"))["error"]["code"] == "forbidden"


async def test_a_note_from_the_archive_reaches_its_user_and_followers(bff: RunningBff) -> None:
    async with (
        bff.browser("alice", SCOPES) as alice,
        bff.browser("bob", SCOPES) as bob,
        bff.events("carol", SCOPES, topics="notes.restored") as carol,
    ):
        assert (await bob.subscribe("notes.restored"))["error"] is None
        restored = await alice.request("archive", "restore", text="buy tea")
        assert (await alice.event("note.restored"))["event"] == restored["result"]
        assert (await bob.event("notes.restored"))["event"] == {"text": "buy tea"}
        assert (await carol.event("notes.restored"))["event"] == {"text": "buy tea"}

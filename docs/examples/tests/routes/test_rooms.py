"""Rooms: who may read, who may write, and what arrives."""

from __future__ import annotations

from tests.running import Bff


async def test_what_is_written_reaches_who_is_in_the_room(bff: Bff) -> None:
    async with bff.browser("alice", ["rooms"]) as alice, bff.browser("bob", ["rooms"]) as bob:
        assert (await bob.subscribe("rooms.kitchen"))["error"] is None
        await alice.request("rooms", "write", room="kitchen", text="tea is ready")
        message = await bob.event("rooms.kitchen")
        assert message["event"] == {"by": "alice", "text": "tea is ready"}


async def test_a_room_has_its_rules(bff: Bff) -> None:
    async with bff.browser("bob", ["rooms"]) as bob:
        assert (await bob.subscribe("rooms.secret"))["error"]["code"] == "forbidden"
    async with bff.browser("bob", ["orders"]) as bob:
        assert (await bob.subscribe("rooms.kitchen"))["error"]["code"] == "forbidden"

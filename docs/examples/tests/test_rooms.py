"""Rooms: which users may subscribe, and which messages they get."""

from __future__ import annotations

from bff.testing import RunningBff


async def test_a_message_reaches_all_subscribers_of_its_room(bff: RunningBff) -> None:
    async with (
        bff.browser("alice", ["rooms"]) as alice,
        bff.browser("bob", ["rooms"]) as bob,
        bff.events("carol", ["rooms"], topics="rooms.kitchen") as carol,
    ):
        assert (await bob.subscribe("rooms.kitchen"))["error"] is None
        await alice.request("rooms", "write", room="kitchen", text="tea is ready")
        message = {"by": "alice", "text": "tea is ready"}
        assert (await bob.event("rooms.kitchen"))["event"] == message
        assert (await carol.event("rooms.kitchen"))["event"] == message


async def test_the_topic_policy_and_scopes_are_checked(bff: RunningBff) -> None:
    async with bff.browser("bob", ["rooms"]) as bob:
        assert (await bob.subscribe("rooms.secret"))["error"]["code"] == "forbidden"
    async with bff.browser("bob", ["orders"]) as bob:
        assert (await bob.subscribe("rooms.kitchen"))["error"]["code"] == "forbidden"

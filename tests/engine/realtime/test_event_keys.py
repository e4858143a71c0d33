"""The idempotency keys of an event go when it is settled; until then they outlive any outage."""

from __future__ import annotations

import os

import pytest
from bff.cluster.messenger import Messenger
from bff.mesh.events import REDELIVERY_SECONDS, MeshEvent
from bff.mesh.rabbitmq import consumer
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import run, until

from tests.engine.echo import create_app


@pytest.fixture(params=["memory", "rabbitmq"])
def amqp_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    if "TEST_AMQP_URL" not in os.environ:
        pytest.skip("needs RabbitMQ: TEST_AMQP_URL is not set")
    return os.environ["TEST_AMQP_URL"]


async def test_keys_of_handled_events_are_released(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "REDECLARE_SECONDS", 0.5)
    app = create_app(settings)
    async with run(app) as bff, bff.browser("alice") as alice:
        for n in range(50):
            await bff.engine.mesh.publish("echo.1.said", {"user_id": "alice", "n": n})
        for _ in range(50):
            await alice.event("echo.said")

        async def lives() -> list[int]:
            found = [key async for key in bff.engine.redis.scan_iter("*:{u:alice}:idem:*")]
            keys = [key for key in found if key.startswith(settings.prefix.encode())]
            return [await bff.engine.redis.ttl(key) for key in keys]

        async def are_short() -> bool:
            found = await lives()
            return len(found) == 50 and max(found) <= 60

        await until(are_short)


async def test_keys_of_a_dead_letter_keep_their_life(settings: Settings) -> None:
    """Its handler may have sent a part; an operator may publish it again."""
    realtime = RealtimeRouter()

    @realtime.event("partly", name="partly")
    async def partly(event: MeshEvent, messenger: Messenger) -> None:
        await messenger.to_user("alice", "part", 1)
        raise ValueError("the rest fails")

    app = create_app(settings, realtime)
    async with run(app) as bff, bff.browser("alice") as alice:
        await bff.engine.mesh.publish("partly", {})
        await alice.event("part")
        results = bff.engine.metrics.registry
        labels = {"handler": "partly", "result": "dead_lettered"}
        await until(lambda: results.get_sample_value("bff_mesh_events_total", labels) == 1)
        pattern = f"{settings.prefix}:{{u:alice}}:idem:*"
        (key,) = [key async for key in bff.engine.redis.scan_iter(pattern)]
        assert await bff.engine.redis.ttl(key) > REDELIVERY_SECONDS - 60

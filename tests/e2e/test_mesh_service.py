"""The BFF as a service of the mesh, called by a client on the real nuropb 0.1.8."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiormq
import pytest
from pamqp.common import FieldTable

from tests.baked import environment
from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Person
from tests.e2e.deployment import Cluster
from tests.servers import Server

_CALLER = Path(__file__).with_name("services") / "nuropb_caller.py"
_SECONDS = 60


class NuropbCaller:
    """Calls as a nuropb service would make them."""

    def __init__(self, python: Path, amqp_url: str, service: str) -> None:
        self._command = [str(python), str(_CALLER), amqp_url]
        self.service = service

    async def __call__(
        self, *calls: tuple[str, dict[str, Any]], encrypted: bool = False
    ) -> list[Any]:
        wanted = [[self.service, method, params, {}, encrypted] for method, params in calls]
        process = await asyncio.create_subprocess_exec(
            *self._command,
            json.dumps(wanted),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        answers: list[Any] = json.loads(output.splitlines()[-1])
        return answers


@pytest.fixture
def nuropb(cluster: Cluster, rabbitmq_server: Server, nuropb_python: Path | None) -> NuropbCaller:
    if nuropb_python is None:
        pytest.skip("needs the real nuropb 0.1.8, which runs on Python < 3.12 only")
    return NuropbCaller(nuropb_python, rabbitmq_server.url, cluster.deployment.app_name)


async def test_a_nuropb_client_calls_every_method_of_the_bff(
    nuropb: NuropbCaller,
    cluster: Cluster,
    admin: Admin,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
) -> None:
    to_alice = {"user_ids": [alice.id], "topic": "news", "event": {"n": 1}}
    described, online, sent, topical, broadcast, unknown, wrong, closed = await nuropb(
        ("nuropb_describe", {}),
        ("presence", {"user_ids": [alice.id, "nobody"]}),
        ("send_to_users", to_alice),
        ("send_to_topic", {"topic": "prices.tea", "event": {"n": 3}}),
        ("broadcast", {"topic": "all-news", "event": {"n": 2}}),
        ("no_such_method", {}),
        ("send_to_users", {"user_ids": [], "topic": "news"}),
        ("disconnect_users", {"user_ids": [alice.id]}),
    )
    assert set(described["result"]["methods"]) == {
        "send_to_users",
        "send_to_topic",
        "broadcast",
        "disconnect_users",
        "presence",
        "whisper",
    }
    assert len(online["result"]["users"][alice.id]) == len(alices)
    assert online["result"]["users"]["nobody"] == []
    assert topical["result"]["id"].startswith("topic:prices.tea/")
    assert sent["error"] is None
    assert sent["result"]["addressed"] == len(alices)
    for browser in alices:
        event = await browser.event("news")
        assert (event["event"], event["id"]) == ({"n": 1}, sent["result"]["ids"][0])
    assert (await bobs.event("all-news"))["id"] == broadcast["result"]["ids"][0]
    assert bobs.events("news") == []
    assert unknown["error"]["description"] == "Unknown method no_such_method"
    assert wrong["error"]["error"] == "NuropbValidationError"
    assert closed["result"] == {"addressed": len(alices)}
    assert [await browser.closed() for browser in alices] == [4504] * len(alices)
    await admin.fence(cluster.a, bobs)


async def test_both_instances_answer_and_each_call_is_answered_once(
    nuropb: NuropbCaller,
    cluster: Cluster,
    admin: Admin,
    alice: Person,
    alices: list[Browser],
) -> None:
    calls = [
        ("send_to_users", {"user_ids": [alice.id], "topic": "numbered", "event": number})
        for number in range(20)
    ]
    answers = await nuropb(*calls)
    assert [answer["result"]["addressed"] for answer in answers] == [len(alices)] * 20
    await admin.fence(cluster.a, *alices)
    for browser in alices:
        assert [event["event"] for event in browser.events("numbered")] == list(range(20))


async def test_a_method_that_asks_for_encryption_gets_it_from_a_nuropb_client(
    nuropb: NuropbCaller, alice: Person, alices: list[Browser]
) -> None:
    whisper = ("whisper", {"to": alice.id, "text": "psst"})
    (plain,) = await nuropb(whisper)
    assert plain["error"]["error"] == "NuropbValidationError"
    told, wrong = await nuropb(whisper, ("whisper", {"to": ""}), encrypted=True)
    assert told == {"result": {"connections": len(alices)}, "error": None}
    assert wrong["error"]["error"] == "NuropbValidationError"
    assert (await alices[0].event("demo.whispered"))["event"] == {"text": "psst"}


async def test_no_poison_ends_the_bff_on_the_mesh(
    nuropb: NuropbCaller, cluster: Cluster, rabbitmq_server: Server
) -> None:
    """Each of these takes a service on nuropb 0.1.8 off the mesh for good, but for the last."""
    headers: FieldTable = {"nuropb_protocol": "0.1.1", "nuropb_type": "request", "encrypted": ""}
    call = json.dumps({"tag": "request", "method": "presence", "params": {}, "context": {}})
    poison: list[tuple[str, FieldTable | None, str | None]] = [
        ("{no json", headers, "q"),
        ("[1]", headers, "q"),
        (call, {**headers, "encrypted": "yes"}, "q"),
        (call, {**headers, "nuropb_protocol": "9.9.9"}, "q"),
        (call, {**headers, "nuropb_type": "gossip"}, "q"),
        (call, {**headers, "nuropb_type": "response"}, "q"),
        (call, None, "q"),
        (call, headers, None),
        (call.replace("{}", "[]"), headers, "q"),
    ]
    connection = await aiormq.connect(rabbitmq_server.url)
    channel = await connection.channel()
    for body, table, reply_to in poison * 3:
        await channel.basic_publish(
            body.encode(),
            exchange="nuropb-rpc-exchange",
            routing_key=nuropb.service,
            properties=aiormq.spec.Basic.Properties(headers=table, reply_to=reply_to),
        )
    answers = await nuropb(*[("presence", {"user_ids": ["nobody"]})] * 4)
    assert [answer["error"] for answer in answers] == [None] * 4
    left = await channel.queue_declare(f"nuropb-{nuropb.service}-sq", passive=True)
    assert (left.message_count, left.consumer_count) == (0, 2)
    await connection.close()
    assert "Traceback" not in cluster.a.output + cluster.b.output

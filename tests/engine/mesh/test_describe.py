"""Services describe themselves as NuroPb services do, and descriptions are cached."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from bff.errors import Problem
from bff.mesh import describe
from bff.mesh.describe import DescriptionCache, MethodDescription, ServiceDescription
from bff.mesh.messages import Context
from bff.mesh.service import Service

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine

CAPTURED = json.loads((Path(__file__).parent / "captures.json").read_text())["description"]


def test_a_description_of_the_library_is_parsed() -> None:
    read = describe.parse("spec-svc", CAPTURED)
    assert (read.name, read.version, read.description) == (
        "spec-svc",
        "1.2.3",
        "Spec probe service",
    )
    assert read.public_key is not None
    assert read.methods["aecho"].required == ("a",)
    encrypted = [name for name, method in read.methods.items() if method.encrypted]
    assert encrypted == ["secret", "secret_boom"]


@pytest.mark.parametrize(
    "answer", [None, 1, {}, {"methods": [], "public_key": "x"}, {"methods": {"m": 1}}]
)
def test_malformed_parts_of_a_description_are_ignored(answer: Any) -> None:
    assert describe.parse("s", answer) == ServiceDescription("s")


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"description": None, "parameters": [], "requires_encryption": 1},
        {"parameters": {"required": "ab"}},
    ],
)
def test_malformed_parts_of_a_method_are_ignored(facts: Any) -> None:
    read = describe.parse("s", {"methods": {"m": facts}})
    assert read == ServiceDescription("s", methods={"m": MethodDescription()})


async def test_a_service_describes_itself_as_nuropb_does(
    start_client: StartClient, engine: Engine
) -> None:
    service = Service(f"s-{secrets.token_hex(4)}", version="1.2.3")

    @service.method("aecho")
    async def aecho(context: Context, a: int, b: str = "z") -> None:
        """Returns its parameter."""

    @service.method("bare")
    async def bare() -> None: ...

    await engine.serve(service)
    mesh = await start_client()
    answer = await mesh.request(service.name, describe.METHOD, {})
    assert set(answer) == set(CAPTURED)
    method = answer["methods"]["aecho"]
    assert method == {**CAPTURED["methods"]["aecho"], "description": "Returns its parameter."}
    assert answer["methods"]["bare"]["description"] == ""
    assert (await mesh.describe(service.name)).methods["aecho"].required == ("a",)


async def test_a_description_is_requested_once_within_its_max_age() -> None:
    requested: list[str] = []

    async def request(service: str) -> Any:
        requested.append(service)
        await asyncio.sleep(0)
        return {"service_version": str(len(requested))}

    descriptions = DescriptionCache(request, max_age=60)
    together = await asyncio.gather(*(descriptions.get("a") for _ in range(5)))
    assert {description.version for description in together} == {"1"}
    descriptions.forget("a")
    assert (await descriptions.get("a")).version == "2"
    short = DescriptionCache(request, max_age=0)
    await short.get("b")
    await short.get("b")
    assert requested == ["a", "a", "b", "b"]


async def test_a_failed_description_is_requested_again(start_client: StartClient) -> None:
    mesh = await start_client()
    for _ in range(2):
        with pytest.raises(Problem):
            await mesh.describe("no-such-service")


async def test_a_description_that_many_wait_for_has_the_deadline_of_a_call(
    start_client: StartClient, engine: Engine
) -> None:
    """One after the other would request it, each for the whole time."""
    mesh = await start_client(request_timeout_seconds=0.1)
    await engine.interrupt()
    async with asyncio.timeout(2):
        waiting = (mesh.describe("no-such-service") for _ in range(50))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Problem}

"""A service says of itself what NuroPb's own say, and what they say is remembered for a while."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from bff.errors import Problem
from bff.mesh import describe
from bff.mesh.describe import Descriptions
from bff.mesh.messages import Context
from bff.mesh.service import Service

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine

CAPTURED = json.loads((Path(__file__).parent / "captures.json").read_text())["description"]


def test_the_librarys_description_is_understood() -> None:
    read = describe.read("spec-svc", CAPTURED)
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
def test_a_description_that_is_none_is_an_empty_one(answer: Any) -> None:
    read = describe.read("s", answer)
    assert (dict(read.methods), read.public_key) == ({}, None)


async def test_a_service_describes_itself_as_the_library_does(
    start_client: StartClient, engine: Engine
) -> None:
    service = Service(f"s-{secrets.token_hex(4)}", version="1.2.3")

    @service.method("aecho")
    async def aecho(context: Context, a: int, b: str = "z") -> None:
        """Says it again."""

    await engine.serve(service)
    mesh = await start_client()
    answer = await mesh.request(service.name, describe.METHOD, {})
    assert set(answer) == set(CAPTURED)
    method = answer["methods"]["aecho"]
    assert method == {**CAPTURED["methods"]["aecho"], "description": "Says it again."}
    assert (await mesh.describe(service.name)).methods["aecho"].required == ("a",)


async def test_a_description_is_asked_for_once_in_its_time() -> None:
    asked: list[str] = []

    async def ask(service: str) -> Any:
        asked.append(service)
        await asyncio.sleep(0)
        return {"service_version": str(len(asked))}

    descriptions = Descriptions(ask, max_age=60)
    together = await asyncio.gather(*(descriptions.of("a") for _ in range(5)))
    assert {description.version for description in together} == {"1"}
    descriptions.forget("a")
    assert (await descriptions.of("a")).version == "2"
    short = Descriptions(ask, max_age=0)
    await short.of("b")
    await short.of("b")
    assert asked == ["a", "a", "b", "b"]


async def test_a_service_that_could_not_be_asked_is_asked_again(start_client: StartClient) -> None:
    mesh = await start_client()
    for _ in range(2):
        with pytest.raises(Problem):
            await mesh.describe("no-such-service")

"""A right that the engine's user of Redis lacks is found, and named in the server's own words."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import bff
import pytest
from bff.redis.client import create_client
from bff.redis.pipeline import AutoPipeline
from bff.redis.rights import COMMANDS, missing_right
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, MasterDownError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests import servers

PREFIX = "shop:v1"
ENGINE = Path(bff.__file__).parent
TRIED = {"EVALSHA", *(name for name, *_ in COMMANDS)}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with one user for tests and one for the engine."""
    file = tmp_path_factory.mktemp("redis") / "users.acl"
    file.write_text(
        "user default on nopass ~* &* +@all\n"
        f"user shop on nopass ~{PREFIX}:* resetchannels &{PREFIX}:* -@all +@all\n"
    )
    server = servers.redis_with_users(file)
    yield f"redis://{{}}127.0.0.1:{server.port}/0"
    server.remove()


@pytest.fixture
async def admin(url: str) -> AsyncIterator[Any]:
    redis: Any = Redis.from_url(url.format(""))
    async with redis:
        yield redis
        await redis.execute_command(
            "ACL", "SETUSER", "shop", "resetkeys", f"~{PREFIX}:*", f"&{PREFIX}:*", "+@all"
        )


@pytest.fixture
async def pipeline(url: str) -> AsyncIterator[AutoPipeline]:
    redis = create_client(url.format("shop:any@"))
    pipeline = AutoPipeline(redis)
    yield pipeline
    await pipeline.close()
    await redis.aclose()


async def test_with_all_rights_nothing_is_missing_and_nothing_remains(
    pipeline: AutoPipeline, admin: Any
) -> None:
    assert await missing_right(pipeline, PREFIX) == ""
    assert await admin.dbsize() == 0


@pytest.mark.parametrize("command", sorted(TRIED))
async def test_a_missing_command_is_named(pipeline: AutoPipeline, admin: Any, command: str) -> None:
    await admin.execute_command("ACL", "SETUSER", "shop", f"-{command.lower()}")
    reason = await missing_right(pipeline, PREFIX)
    assert "NOPERM" in reason or "no permissions" in reason
    assert f"'{command.lower()}" in reason


@pytest.mark.parametrize("rule", ["resetkeys", "resetchannels"])
async def test_missing_keys_and_channels_are_found(
    pipeline: AutoPipeline, admin: Any, rule: str
) -> None:
    await admin.execute_command("ACL", "SETUSER", "shop", rule)
    assert "no permissions to access" in (await missing_right(pipeline, PREFIX)).lower()


async def test_a_server_that_refuses_to_write_is_found(pipeline: AutoPipeline, admin: Any) -> None:
    await admin.config_set("maxmemory", "1")
    try:
        assert "maxmemory" in await missing_right(pipeline, PREFIX)
    finally:
        await admin.config_set("maxmemory", "0")


async def test_the_embedded_redis_refuses_nothing() -> None:
    assert await missing_right(AutoPipeline(create_client("memory://")), PREFIX) == ""


async def test_a_server_that_is_unavailable_refuses_nothing() -> None:
    pipeline = AutoPipeline(create_client("redis://127.0.0.1:1/0"))
    with pytest.raises(RedisConnectionError):
        await missing_right(pipeline, PREFIX)


@pytest.mark.parametrize(("refused", "more"), [(1, ""), (2, " (and 1 more)"), (4, " (and 3 more)")])
async def test_the_first_refusal_is_named_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch, refused: int, more: str
) -> None:
    pipeline = AutoPipeline(create_client("memory://"))
    tried = 0

    async def submit(*command: Any, **_: Any) -> None:
        nonlocal tried
        tried += 1
        if tried <= refused:
            raise NoPermissionError(f"NOPERM {command[0]}")
        if tried == len(COMMANDS):
            raise ResponseError("WRONGTYPE Operation against a key")

    monkeypatch.setattr(pipeline, "submit", submit)
    assert await missing_right(pipeline, PREFIX) == f"NOPERM {COMMANDS[0][0]}{more}"


@pytest.mark.parametrize("down", [ClusterDownError, MasterDownError])
async def test_a_cluster_that_is_down_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, down: type[Exception]
) -> None:
    """Its errors are replies, as those of missing rights are."""
    pipeline = AutoPipeline(create_client("memory://"))

    async def refused(*_: Any, **__: Any) -> None:
        raise down("The cluster is down")

    monkeypatch.setattr(pipeline, "submit", refused)
    with pytest.raises(down):
        await missing_right(pipeline, PREFIX)


def test_every_command_of_the_engine_is_tried() -> None:
    """Scripts name their commands in `redis.call`, Python in `submit`."""
    used = set()
    for path in (*ENGINE.rglob("*.lua"), *ENGINE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"""(?:redis\.p?call|submit)\(\s*['"]([A-Z]+)""", text))
    assert used
    assert used - TRIED == set()

"""Tries every command that the engine sends to Redis, to find the rights that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from bff.redis.client import RedisClient

_SECONDS: Final = "10"

COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("SET", "KEY", "0", "EX", _SECONDS),
    ("GET", "KEY"),
    ("INCR", "KEY"),
    ("EXPIRE", "KEY", _SECONDS),
    ("TTL", "KEY"),
    ("HGET", "KEY", "x"),
    ("HSET", "KEY", "x", "x"),
    ("HMGET", "KEY", "x"),
    ("HGETALL", "KEY"),
    ("HKEYS", "KEY"),
    ("HLEN", "KEY"),
    ("HEXISTS", "KEY", "x"),
    ("HDEL", "KEY", "x"),
    ("HINCRBY", "KEY", "x", "1"),
    ("SADD", "KEY", "x"),
    ("SREM", "KEY", "x"),
    ("SSCAN", "KEY", "0"),
    ("ZADD", "KEY", "1", "x"),
    ("ZSCORE", "KEY", "x"),
    ("ZREM", "KEY", "x"),
    ("ZREMRANGEBYSCORE", "KEY", "0", "0"),
    ("ZRANGE", "KEY", "0", "0"),
    ("ZCARD", "KEY"),
    ("ZRANGEBYSCORE", "KEY", "0", "0"),
    ("XADD", "KEY", "*", "x", "x"),
    ("XRANGE", "KEY", "-", "+", "COUNT", "1"),
    ("EVAL", "return 1", "1", "KEY"),
    ("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "1", "KEY"),
    ("DEL", "KEY"),
    ("GETDEL", "KEY"),
)
"""On one key, which holds a number and expires: most of them fail with WRONGTYPE, and so change
nothing, but only after Redis has checked the right. `KEY` is replaced."""
_WITHOUT_KEY: Final[tuple[tuple[str, ...], ...]] = (
    ("TIME",),
    ("INFO", "server"),
    ("PUBLISH", "CHANNEL", ""),
)
_HARMLESS: Final = ("WRONGTYPE", "NOSCRIPT")
_HAS_NO_INFO: Final = "unknown command"
"""The embedded Redis knows fewer commands than a real one."""


async def missing_right(redis: RedisClient, prefix: str) -> str:
    """The server's error for the first command that it refuses, and how many more it refuses; empty
    if it refuses none. `prefix` is that of all keys and channels."""
    names = {"KEY": f"{prefix}:{{probe}}", "CHANNEL": f"{prefix}:probe"}
    pipeline = redis.pipeline(transaction=False) if _is_single(redis) else None
    replies: list[Any] = []
    if pipeline is not None:
        for command in (*COMMANDS, *_WITHOUT_KEY):
            pipeline.execute_command(*(names.get(word, word) for word in command))
        replies = await pipeline.execute(raise_on_error=False)
    else:
        for command in (*COMMANDS, *_WITHOUT_KEY):
            replies.append(await _reply(redis, [names.get(word, word) for word in command]))
    refusals = [str(reply) for reply in replies if _is_refusal(reply)]
    more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
    return refusals[0] + more if refusals else ""


def _is_single(redis: RedisClient) -> bool:
    return not hasattr(redis, "get_primaries")


async def _reply(redis: RedisClient, command: Sequence[str]) -> Any:
    """A cluster's pipeline does not take every command."""
    try:
        return await redis.execute_command(*command)
    except ResponseError as error:
        return error


def _is_refusal(reply: Any) -> bool:
    if not isinstance(reply, Exception):
        return False
    text = str(reply)
    return not text.startswith(_HARMLESS) and _HAS_NO_INFO not in text and "WRONGTYPE" not in text

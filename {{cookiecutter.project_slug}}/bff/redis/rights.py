"""Tries every command that the engine sends to Redis, to find the rights that are missing."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.exceptions import ClusterDownError, MasterDownError, ResponseError

from bff.redis.pipeline import AutoPipeline, Script

_SECONDS: Final = "10"
_DOWN: Final = (ClusterDownError, MasterDownError)
"""With these errors Redis refuses every command, whatever the user's rights."""

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
    ("DEL", "KEY"),
    ("GETDEL", "KEY"),
    ("TIME",),
    ("INFO", "server"),
    ("PUBLISH", "CHANNEL", ""),
)
"""On one key, which holds a number and expires: most of them fail with WRONGTYPE, and so change
nothing, but only after Redis has checked the right. `KEY` and `CHANNEL` are replaced."""
_WRONG_TYPE: Final = "WRONGTYPE"
_HAS_NO_INFO: Final = "unknown command"
"""The embedded Redis knows fewer commands than a real one."""


async def missing_right(pipeline: AutoPipeline, prefix: str) -> str:
    """The server's error for the first command that it refuses, and how many more it refuses; empty
    if it refuses none. `prefix` is that of all keys and channels.

    Raises:
        RedisError, OSError, TimeoutError: Redis is unavailable.
    """
    names = {"KEY": f"{prefix}:{{probe}}", "CHANNEL": f"{prefix}:probe"}
    replies: list[Any] = await asyncio.gather(
        *(pipeline.submit(*(names.get(word, word) for word in command)) for command in COMMANDS),
        Script(pipeline, "return 1")([names["KEY"]], []),
        return_exceptions=True,
    )
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    for error in errors:
        if not isinstance(error, ResponseError) or isinstance(error, _DOWN):
            raise error
    refusals = [text for text in map(str, errors) if not _is_harmless(text)]
    more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
    return refusals[0] + more if refusals else ""


def _is_harmless(text: str) -> bool:
    return _WRONG_TYPE in text or _HAS_NO_INFO in text

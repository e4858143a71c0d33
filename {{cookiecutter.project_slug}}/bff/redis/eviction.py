"""Checks that Redis deletes no keys to make room: its `maxmemory-policy` must be `noeviction`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from bff.redis.client import RedisClient

_CHECK_SECONDS: Final = 60.0
_REQUIRED: Final = "noeviction"
UNKNOWN: Final = "maxmemory-policy is unknown"
"""How the warning begins when Redis tells neither."""


async def eviction_warning(redis: RedisClient) -> str:
    """Why Redis may delete keys, or why that is unknown; empty when it does not.

    Managed services refuse `CONFIG`, and some users may not use `INFO`, so it asks both.

    Raises:
        RedisError, OSError, TimeoutError: Redis is unavailable.
    """
    options: dict[str, Any] = {}
    if isinstance(redis, RedisCluster):
        options["target_nodes"] = RedisCluster.PRIMARIES
    try:
        found = _policies(await redis.info("memory", **options), "maxmemory_policy")
    except ResponseError:
        found = set()
    if not found:
        try:
            found = _policies(
                await redis.config_get("maxmemory-policy", **options), "maxmemory-policy"
            )
        except ResponseError:
            found = set()
    if not found:
        return f"{UNKNOWN}: allow INFO to the user of REDIS_URL"
    wrong = ", ".join(sorted(found - {_REQUIRED}))
    return wrong and (
        f"maxmemory-policy is {wrong}: set it to {_REQUIRED}, or Redis may delete connections and "
        "messages"
    )


def _policies(reply: Mapping[Any, Any], name: str) -> set[str]:
    """The values in the reply of one node, or in the replies of several nodes."""
    nodes = [reply, *(one for one in reply.values() if isinstance(one, Mapping))]
    return {str(node[name]) for node in nodes if name in node}


class EvictionCheck:
    """`eviction_warning`, at most once a minute. The embedded Redis evicts nothing."""

    def __init__(self, redis: RedisClient, url: str) -> None:
        self._redis = redis
        self._is_embedded = url.startswith("memory:")
        self._checked_at = -_CHECK_SECONDS
        self._warning = ""

    async def warning(self) -> str:
        """
        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        if not self._is_embedded and time.monotonic() - self._checked_at >= _CHECK_SECONDS:
            self._warning = await eviction_warning(self._redis)
            self._checked_at = time.monotonic()
        return self._warning

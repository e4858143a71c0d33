"""Many commands in one round trip, past the layers that redis-py puts around each of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.connection import HiredisRespSerializer
from redis.exceptions import ResponseError
from redis.typing import EncodableT

Command = tuple[EncodableT, ...]

_SECONDS: Final = 5.0
"""That Redis may take for all the answers."""
_packer = HiredisRespSerializer()


async def exchange(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """The answers as Redis gives them, in order; to a command that it refused, the error.

    Raises:
        RedisError, OSError, TimeoutError: Redis cannot be asked; what it has done, nobody knows.
    """
    packed = [piece for command in commands for piece in _packer.pack(*command)]  # type: ignore[arg-type]
    pool = redis.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        return await _exchange(connection, packed, len(commands))
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


async def _exchange(connection: AbstractConnection, packed: list[bytes], count: int) -> list[Any]:
    await connection.send_packed_command(packed)
    answers: list[Any] = []
    async with asyncio.timeout(_SECONDS):
        for _ in range(count):
            try:
                answers.append(await connection.read_response(timeout=math.inf))
            except ResponseError as error:
                answers.append(error)
    return answers

"""How a Python candidate sends: the same loops for all candidates."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

MARK = "!"
_PROBE_SECONDS = 0.001

SendAll = Callable[[str], Awaitable[object]]
SendUser = Callable[[str, str], Awaitable[object]]


class Drive:
    """Commands from the client, by name; each returns what it sent and when it began."""

    def __init__(self, to_all: SendAll, to_user: SendUser | None = None) -> None:
        self._to_all = to_all
        self._to_user = to_user

    async def run(self, command: str, query: Mapping[str, str]) -> dict[str, Any]:
        options = {name: float(value) for name, value in query.items()}
        text = "x" * int(options.pop("pad", 0)) + MARK
        answer: dict[str, Any] = await getattr(self, command)(text, **options)
        return answer

    async def ready(self, _: str) -> dict[str, Any]:
        return {}

    async def settle(self, _: str) -> dict[str, Any]:
        """Before memory is looked at: what is garbage goes."""
        gc.collect()
        return {}

    async def once(self, text: str) -> dict[str, Any]:
        started = time.monotonic_ns()
        await self._to_all(text)
        return {"started": started, "sent": 1}

    async def repeat(self, text: str, seconds: float) -> dict[str, Any]:
        """One message after the other, each as soon as the one before is handed over."""
        started, until, sent = time.monotonic_ns(), time.monotonic() + seconds, 0
        while time.monotonic() < until:
            await self._to_all(text)
            await asyncio.sleep(0)
            sent += 1
        return {"started": started, "sent": sent}

    async def burst(self, text: str, seconds: float, size: float) -> dict[str, Any]:
        """`size` messages at once, as when so many events come in together."""
        started, until, sent = time.monotonic_ns(), time.monotonic() + seconds, 0
        while time.monotonic() < until:
            await asyncio.gather(*(self._to_all(text) for _ in range(int(size))))
            await asyncio.sleep(0)
            sent += int(size)
        return {"started": started, "sent": sent}

    async def users(
        self, text: str, seconds: float, users: float, in_flight: float
    ) -> dict[str, Any]:
        """To one user after the other, `in_flight` sends at a time."""
        assert self._to_user is not None
        send, sent = self._to_user, 0
        started, until = time.monotonic_ns(), time.monotonic() + seconds
        numbers = itertools.cycle(range(int(users)))

        async def keep_sending() -> None:
            nonlocal sent
            while time.monotonic() < until:
                sent += 1
                await send(f"user-{next(numbers)}", text)
                await asyncio.sleep(0)

        await asyncio.gather(*(keep_sending() for _ in range(int(in_flight))))
        return {"started": started, "sent": sent}

    async def lag(self, text: str, count: float, seconds: float) -> dict[str, Any]:
        """`count` broadcasts, `seconds` apart; the longest that the loop was busy meanwhile."""
        started, worst = time.monotonic_ns(), []
        for _ in range(int(count)):
            probe = asyncio.create_task(_longest_turn(seconds))
            await asyncio.sleep(0.05)
            await self._to_all(text)
            worst.append(await probe)
        return {"started": started, "sent": int(count), "lags": worst}


async def _longest_turn(seconds: float) -> float:
    """The longest delay of a timer within these seconds."""
    worst, until = 0.0, time.monotonic() + seconds
    while (due := time.monotonic() + _PROBE_SECONDS) < until:
        await asyncio.sleep(_PROBE_SECONDS)
        worst = max(worst, time.monotonic() - due)
    return worst

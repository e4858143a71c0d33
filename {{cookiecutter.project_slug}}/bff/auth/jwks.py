"""The identity provider's public keys (RFC 7517): fetched, cached, replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import httpx

from bff.errors import Code, Problem

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FETCH_SECONDS = 5
_PATIENCE = 0.5
"""Seconds that a token waits for newer keys while there are old ones."""
_MAX_BYTES = 1024 * 1024


class Jwks(Generic[T]):
    """The keys at an address, as `parse` understands them.

    A provider in trouble changes nothing: the keys it gave last stay good. However many ask at
    once, one fetch is under way; a waiter who gives up does not end it.
    """

    def __init__(
        self,
        url: str,
        parse: Callable[[bytes], T],
        http: httpx.AsyncClient,
        *,
        max_age: float = 600,
        min_interval: float = 30,
        retry_interval: float = 5,
    ) -> None:
        """Ages and intervals are in seconds.

        `min_interval` stands between fetches, so that tokens with invented key ids cannot make
        this a load on the provider; `retry_interval` after one that failed.
        """
        self._url = url
        self._parse = parse
        self._http = http
        self._max_age = max_age
        self._min_interval = min_interval
        self._retry_interval = retry_interval
        self._keys: T | None = None
        self._fetched = 0.0
        self._not_before = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def current(self) -> T:
        """The keys, fetched anew when they have come of age.

        Raises:
            Problem: `service_unavailable` when the provider never gave any.
        """
        if self._keys is None:
            await self._refresh()
        elif self._now() - self._fetched > self._max_age:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._refresh()
        if self._keys is None:
            raise Problem(Code.SERVICE_UNAVAILABLE, "Signing in is not possible at the moment")
        return self._keys

    async def newer(self) -> T:
        """The keys, fetched anew unless that was just done: somebody names a key not known."""
        await self._refresh()
        return await self.current()

    async def close(self) -> None:
        """Give up a fetch under way, and the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
        await self._http.aclose()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _refresh(self) -> None:
        if self._fetching is None:
            if self._now() < self._not_before:
                return
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        wait = self._retry_interval
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._keys = self._parse(await self._download())
            self._fetched = self._now()
            wait = self._min_interval
        except Exception as error:
            logger.warning(
                "keys of the identity provider not fetched: %s: %s", type(error).__name__, error
            )
        finally:
            self._not_before = self._now() + wait
            self._fetching = None

    async def _download(self) -> bytes:
        body = bytearray()
        async with self._http.stream("GET", self._url) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes")
        return bytes(body)

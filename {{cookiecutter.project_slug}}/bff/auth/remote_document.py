"""A cached document of the identity provider: its keys (JWK set, RFC 7517) or its metadata."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import httpx2

from bff.errors import Code, Problem
from bff.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FETCH_SECONDS = 5
_REFRESH_SECONDS = 0.5
"""How long a caller waits for a refresh while an older document is cached."""
_MAX_BYTES = 1024 * 1024


class RemoteDocument(Generic[T]):
    """The document at a URL, as `parse` returns it.

    If a fetch fails the last document stays in use. Concurrent callers share one fetch, which
    continues when a caller is cancelled.
    """

    def __init__(
        self,
        url: str,
        parse: Callable[[bytes], T],
        http: httpx2.AsyncClient,
        *,
        name: str = "keys",
        max_age: float = 600,
        min_interval: float = 30,
        retry_interval: float = 5,
    ) -> None:
        """`name` is for log lines. Ages and intervals are in seconds.

        `min_interval` is the least time between fetches: tokens with made-up key ids cannot load
        the provider. `retry_interval` is the least time after a fetch that failed.
        """
        self._url = url
        self._parse = parse
        self._http = http
        self._name = name
        self._max_age = max_age
        self._min_interval = min_interval
        self._retry_interval = retry_interval
        self._document: T | None = None
        self._fetched = 0.0
        self._not_before = 0.0
        self._fetching: asyncio.Task[None] | None = None
        self.error = "not fetched yet"
        """Why the last fetch failed; empty when it did not."""

    async def current(self) -> T:
        """The document, at most `max_age` old if the provider answers.

        Raises:
            Problem: `service_unavailable` while no fetch has ever succeeded.
        """
        if self._document is None:
            await self._refresh()
        elif self._now() - self._fetched > self._max_age:
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._refresh()
        if self._document is None:
            raise Problem(Code.SERVICE_UNAVAILABLE, "Signing in is not possible at the moment")
        return self._document

    async def newer(self) -> T:
        """The document, fetched again unless that was done just now: for a token that names an
        unknown key."""
        await self._refresh()
        return await self.current()

    async def close(self) -> None:
        """Cancel a running fetch and close the HTTP client."""
        if self._fetching is not None:
            await cancel_and_wait(self._fetching)
        await self._http.aclose()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _refresh(self) -> None:
        if self._fetching is None:
            if self._now() < self._not_before:
                return
            self._fetching = asyncio.create_task(self._fetch(), name="remote_document")
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        wait = self._retry_interval
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._document = self._parse(await self._download())
            self._fetched, self.error = self._now(), ""
            wait = self._min_interval
        except Exception as error:
            self.error = f"{type(error).__name__}: {str(error) or 'no answer'}"
            logger.warning(
                "could not fetch a document of the identity provider",
                extra={"document": self._name, "error": self.error},
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

"""A resource of the app: words that notes may not hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bff import Bff


class Words:
    def __init__(self, refused: frozenset[str]) -> None:
        self._refused = refused

    def allow(self, text: str) -> bool:
        return self._refused.isdisjoint(text.lower().split())


@asynccontextmanager
async def open_words(bff: Bff) -> AsyncIterator[Words]:
    yield Words(frozenset({bff.settings.environment}))

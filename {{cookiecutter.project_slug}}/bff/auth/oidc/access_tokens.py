"""The access token of a session, refreshed once for all instances when somebody needs it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Final

from bff.auth.oidc.errors import AnswerLost, GrantRefused
from bff.auth.oidc.provider import IdentityProvider
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.auth.sessions import SessionStore
from bff.errors import Code, Problem
from bff.redis.pipeline import AutoPipeline, Script
from bff.settings import Settings
from bff.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

_LEEWAY_SECONDS: Final = 30
"""A token that expires sooner than this is refreshed."""
_LOCK_SECONDS: Final = 30
"""Longer than both attempts of a refresh take, so that a second one begins only after a crash."""
_WAIT_SECONDS: Final = 25.0
_POLL_SECONDS: Final = 0.05
_RELEASE = """
-- Release a lock, if it is still ours.
-- KEYS: lock; ARGV: its value
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class SessionEnded(Exception):
    """The provider has refused the refresh token: the session must end."""


class AccessTokens:
    """Gives out access tokens, and refreshes them.

    A refresh token may be valid only once. So one instance refreshes, under a lock in Redis; the
    others, and the other requests of this instance, wait for what it stores.
    """

    def __init__(
        self,
        pipeline: AutoPipeline,
        settings: Settings,
        sessions: SessionStore,
        provider: IdentityProvider,
    ) -> None:
        self._pipeline = pipeline
        self._prefix = settings.prefix
        self._sessions = sessions
        self._provider = provider
        self._release = Script(pipeline, _RELEASE)
        self._refreshing: dict[str, asyncio.Task[Tokens]] = {}
        """The refreshes that this instance runs or waits for, by session."""

    async def get(self, key: SessionKey) -> str:
        """The access token of a session, valid for some seconds at least.

        Raises:
            SessionEnded: the provider has refused to issue another one.
            Problem: `unauthenticated` if the session has ended, or if the token has expired and
                the provider gave no refresh token; `service_unavailable` if the provider does not
                answer.
        """
        tokens = await self._read(key)
        if _is_fresh(tokens):
            return tokens.access_token
        if tokens.refresh_token is None:
            if _is_valid(tokens):
                return tokens.access_token
            raise Problem(Code.UNAUTHENTICATED, "The access token has expired: sign in again")
        try:
            return (await self._refreshed(key)).access_token
        except Problem as problem:
            if problem.code is Code.SERVICE_UNAVAILABLE and _is_valid(tokens):
                return tokens.access_token
            raise

    async def stop(self) -> None:
        """Cancel the refreshes that still run."""
        await cancel_and_wait(*self._refreshing.values())

    async def _read(self, key: SessionKey) -> Tokens:
        tokens = await self._sessions.tokens(key)
        if tokens is None:
            raise Problem(Code.UNAUTHENTICATED, "The session has ended")
        return tokens

    async def _refreshed(self, key: SessionKey) -> Tokens:
        """Fresh tokens. The refresh continues if the request that began it is cancelled."""
        task = self._refreshing.get(key.sid)
        if task is None:
            task = asyncio.create_task(self._refresh_or_wait(key), name="refresh")
            self._refreshing[key.sid] = task
            task.add_done_callback(lambda done: self._forget(key.sid, done))
        return await asyncio.shield(task)

    def _forget(self, sid: str, task: asyncio.Task[Tokens]) -> None:
        del self._refreshing[sid]
        if not task.cancelled():
            task.exception()  # the requests get it; there may be none any more

    async def _refresh_or_wait(self, key: SessionKey) -> Tokens:
        lock, value = f"{self._prefix}:session:{key.sid}:refresh", secrets.token_hex(8)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while True:
                    locked = await self._pipeline.submit(
                        "SET", lock, value, "NX", "EX", _LOCK_SECONDS
                    )
                    tokens = await self._read(key)
                    if _is_fresh(tokens):
                        break
                    if locked:
                        tokens = await self._refresh(key, tokens)
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Problem(Code.SERVICE_UNAVAILABLE, "The access token was not refreshed") from None
        finally:
            await self._release([lock], [value])
        return tokens

    async def _refresh(self, key: SessionKey, tokens: Tokens) -> Tokens:
        """Ask the provider, once more if its answer was lost: many providers accept a refresh
        token again for some seconds after its use, for just this case."""
        refresh_token = tokens.refresh_token or ""
        try:
            try:
                response = await self._provider.refresh(refresh_token)
            except AnswerLost:
                response = await self._provider.refresh(refresh_token)
        except AnswerLost:
            raise Problem(Code.SERVICE_UNAVAILABLE, "The access token was not refreshed") from None
        except GrantRefused:
            raise SessionEnded from None
        fresh = Tokens.from_response(response, tokens)
        if fresh is None:
            raise Problem(Code.SERVICE_UNAVAILABLE, "The access token was not refreshed")
        if not await self._sessions.write_tokens(key, fresh):
            raise Problem(Code.UNAUTHENTICATED, "The session has ended")
        return fresh


def _is_fresh(tokens: Tokens) -> bool:
    return tokens.expires_at is None or tokens.expires_at > time.time() + _LEEWAY_SECONDS


def _is_valid(tokens: Tokens) -> bool:
    return tokens.expires_at is None or tokens.expires_at > time.time()

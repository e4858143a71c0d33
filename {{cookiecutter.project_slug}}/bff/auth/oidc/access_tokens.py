"""The access tokens of sessions, refreshed once for all instances when one is needed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from bff.auth.access_token import AccessToken, no_access_token
from bff.auth.caller import Caller
from bff.auth.oidc.errors import AnswerLost, GrantRefused
from bff.auth.oidc.provider import IdentityProvider
from bff.auth.revocations import SessionEnded
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.auth.sessions import SessionStore
from bff.errors import Code, Problem
from bff.redis.client import UNAVAILABLE
from bff.redis.pipeline import AutoPipeline, Script
from bff.settings import Settings
from bff.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

_LOCK_SECONDS: Final = 60
"""Longer than a refresh takes, with its second attempt and with storing the tokens. So a second
refresh begins only after a crash."""
_WAIT_SECONDS: Final = 25.0
"""How long to wait for the refresh of another instance. A refresh of our own is not cut off: the
provider may have accepted the refresh token already."""
_POLL_SECONDS: Final = 0.05
_STORE_AGAIN_SECONDS: Final = (0.1, 0.5, 2.0)
"""Pauses between attempts to store new tokens: if they were lost, the session could not be
refreshed again."""
_STOP_SECONDS: Final = 5.0
"""How long the stop waits for refreshes, whose tokens would be lost otherwise."""
_RELEASE = """
-- Release a lock, if it is still ours.
-- KEYS: lock; ARGV: its value
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


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
        end_session: Callable[[Caller], Awaitable[None]],
    ) -> None:
        """`end_session` ends the session of a caller, and its connections, when the provider has
        refused a refresh."""
        self._pipeline = pipeline
        self._prefix = settings.prefix
        self._sessions = sessions
        self._provider = provider
        self._end_session = end_session
        self._release = Script(pipeline, _RELEASE)
        self._refreshing: dict[str, asyncio.Task[Tokens]] = {}
        """The refreshes that this instance runs or waits for, by session."""

    async def of(self, caller: Caller) -> AccessToken:
        """The access token of a caller's session.

        Raises:
            SessionEnded: the provider has refused to issue another one, so the session was ended.
            Problem: `forbidden` if the caller uses a token; `unauthenticated` if the session has
                ended, or if the access token has expired and the provider gave no refresh token;
                `service_unavailable` if the provider does not answer.
        """
        key = caller.session
        if key is None:
            return await no_access_token(caller)
        tokens = await self._read(key)
        if _is_fresh(tokens) or (tokens.refresh_token is None and _is_valid(tokens)):
            return AccessToken(tokens.access_token)
        if tokens.refresh_token is None:
            raise Problem(Code.UNAUTHENTICATED, "The access token has expired: sign in again")
        try:
            return AccessToken((await self._refreshed(caller, key)).access_token)
        except Problem as problem:
            if problem.code is Code.SERVICE_UNAVAILABLE and _is_valid(tokens):
                return AccessToken(tokens.access_token)
            raise

    async def stop(self) -> None:
        """Wait for the refreshes that still run, then cancel them."""
        if running := tuple(self._refreshing.values()):
            await asyncio.wait(running, timeout=_STOP_SECONDS)
            await cancel_and_wait(*running)

    async def _read(self, key: SessionKey) -> Tokens:
        tokens = await self._sessions.tokens(key)
        if tokens is None:
            raise SessionEnded
        return tokens

    async def _refreshed(self, caller: Caller, key: SessionKey) -> Tokens:
        """Fresh tokens. The refresh continues if the request that began it is cancelled."""
        task = self._refreshing.get(key.sid)
        if task is None:
            task = asyncio.create_task(self._refresh_or_wait(caller, key), name="refresh")
            self._refreshing[key.sid] = task
            task.add_done_callback(lambda done: self._forget(key.sid, done))
        return await asyncio.shield(task)

    def _forget(self, sid: str, task: asyncio.Task[Tokens]) -> None:
        del self._refreshing[sid]
        if not task.cancelled():
            task.exception()  # the requests get it; there may be none any more

    async def _refresh_or_wait(self, caller: Caller, key: SessionKey) -> Tokens:
        lock, value = f"{self._prefix}:session:{key.sid}:refresh", secrets.token_hex(8)
        try:
            tokens = await self._fresh_or_locked(key, lock, value)
            return tokens if _is_fresh(tokens) else await self._refresh(caller, key, tokens)
        finally:
            with suppress(*UNAVAILABLE):  # it expires
                await self._release([lock], [value])

    async def _fresh_or_locked(self, key: SessionKey, lock: str, value: str) -> Tokens:
        """Wait until another instance has refreshed the tokens, or this one has the lock."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while True:
                    is_locked = await self._pipeline.submit(
                        "SET", lock, value, "NX", "EX", _LOCK_SECONDS
                    )
                    tokens = await self._read(key)
                    if is_locked or _is_fresh(tokens):
                        return tokens
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise _not_refreshed() from None

    async def _refresh(self, caller: Caller, key: SessionKey, tokens: Tokens) -> Tokens:
        """Ask the provider, once more if its answer was lost: many providers accept a refresh
        token again for some seconds after its use, for just this case."""
        refresh_token = tokens.refresh_token or ""
        try:
            try:
                response = await self._provider.refresh(refresh_token)
            except AnswerLost:
                response = await self._provider.refresh(refresh_token)
        except AnswerLost:
            raise _not_refreshed() from None
        except GrantRefused:
            return await self._refused(caller, key, tokens)
        fresh = Tokens.from_response(response, tokens)
        if fresh is None:
            raise _not_refreshed()
        if not await self._store(key, fresh):
            raise SessionEnded
        return fresh

    async def _refused(self, caller: Caller, key: SessionKey, tokens: Tokens) -> Tokens:
        """The tokens that another instance has stored meanwhile, because the lock of this one had
        expired. If there are none, the session ends."""
        latest = await self._read(key)
        if latest.refresh_token != tokens.refresh_token:
            return latest
        logger.info("session ended: refresh refused", extra={"session": key.sid})
        await self._end_session(caller)
        raise SessionEnded

    async def _store(self, key: SessionKey, tokens: Tokens) -> bool:
        for pause in _STORE_AGAIN_SECONDS:
            try:
                return await self._sessions.write_tokens(key, tokens)
            except UNAVAILABLE:
                await asyncio.sleep(pause)
        return await self._sessions.write_tokens(key, tokens)


def _not_refreshed() -> Problem:
    return Problem(Code.SERVICE_UNAVAILABLE, "The access token was not refreshed")


def _is_fresh(tokens: Tokens) -> bool:
    return tokens.refresh_at is None or tokens.refresh_at > time.time()


def _is_valid(tokens: Tokens) -> bool:
    return tokens.expires_at is None or tokens.expires_at > time.time()

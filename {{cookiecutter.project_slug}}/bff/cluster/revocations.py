"""Revokes sessions, tokens and users on all instances, and refuses what is revoked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from bff.auth.caller import Caller
from bff.auth.revocations import (
    Revocation,
    RevocationKind,
    RevocationList,
    SessionEnded,
    Sessions,
    keys_of,
    parse,
)
from bff.cluster.context import ClusterContext
from bff.cluster.envelopes import Kind
from bff.cluster.scripts import load
from bff.connections.positions import Position
from bff.names import check_id, check_user_id
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)

_BATCH: Final = 500
"""Revocations that one call of the script adds."""
_ASK_SECONDS: Final = 1.0
"""How long a request waits for Redis while pub/sub is stalled."""
_RETRY_SECONDS: Final = 1.0
"""The delay after a comparison with Redis has failed."""
_ASK_AGAIN_SECONDS: Final = 5.0
"""After Redis did not answer, requests are checked against the copy only, for this long."""
_CLOCK_SECONDS: Final = 60
"""Revocations that expire within this time are not compared: Redis may have removed them."""


class Revocations:
    """The revocations in Redis, and this instance's copy of them.

    Redis counts the changes, in the hash of the stream `all`. A connect reads this count together
    with that stream, without another round trip. If it differs from the count of the copy, a
    message is delayed or lost, and the instance asks Redis whether the caller is revoked. HTTP
    requests are checked against the copy alone, and ask Redis while pub/sub is stalled.

    The copy outlives the data of Redis: when Redis has lost them, each instance writes its copy
    again.
    """

    def __init__(self, context: ClusterContext) -> None:
        self._pipeline = context.pipeline
        self._keys = context.keys
        self._keep_seconds = context.settings.revocation_seconds
        self._position_seconds = context.settings.position_retention_seconds
        self._check_seconds = context.settings.pubsub_probe_seconds
        self._stalled_after = self._check_seconds * 2
        self._known = RevocationList()
        self._version: Position | None = None
        """Of the copy; None while messages may be missing."""
        self._received_at = float("-inf")
        self._ask_after = float("-inf")
        self._sync_needed = asyncio.Event()
        self._revoke = load(context.pipeline, "revoke")
        self._read = load(context.pipeline, "revocations")
        self.sessions: Sessions | None = None
        """The sessions of the sign-in; None without one. Revoking ends them too."""
        self.on_revoked: Callable[[Sequence[Revocation]], None] = lambda _: None
        """Closes the connections of this instance that are revoked now."""

    # Revoking

    async def revoke_session(self, session_id: str) -> None:
        """Revoke a session: every token with this `sid`, and the session of a cookie.

        Raises:
            Problem: `invalid_params`, it is not the id of a session.
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        check_id(session_id, "the id of a session")
        await self._add([Revocation(RevocationKind.SESSION, session_id, time.time())])
        if self.sessions is not None:
            await self.sessions.end_session(session_id)

    async def revoke_provider_session(self, session_id: str) -> None:
        """Revoke a session of the identity provider: all tokens and cookie sessions with this
        `sid`, also those that are created later.

        Raises:
            Problem, RedisError, OSError, TimeoutError: as `revoke_session`.
        """
        await self.revoke_session(session_id)
        if self.sessions is not None:
            for own in await self.sessions.end_provider_session(session_id):
                await self.revoke_session(own)

    async def revoke_token(self, token_id: str) -> None:
        """Revoke the token with this `jti`.

        Raises:
            Problem, RedisError, OSError, TimeoutError: as `revoke_session`.
        """
        check_id(token_id, "the id of a token")
        await self._add([Revocation(RevocationKind.TOKEN, token_id, time.time())])

    async def revoke_user(self, user_id: str, until: float | None = None) -> None:
        """Revoke all tokens and sessions of a user that were issued at `until` or before, in
        seconds since 1970; without it, up to now. Tokens without `iat` count as issued before.

        Raises:
            Problem, RedisError, OSError, TimeoutError: as `revoke_session`.
        """
        check_user_id(user_id)
        at = time.time() if until is None else until
        await self._add([Revocation(RevocationKind.USER, user_id, at)])
        if self.sessions is not None:
            await self.sessions.end_user(user_id, at)

    async def _add(self, revocations: Sequence[Revocation]) -> None:
        for start in range(0, len(revocations), _BATCH):
            batch = revocations[start : start + _BATCH]
            pairs = [(repr(one.at), one.key) for one in batch]
            await self._revoke(
                self._script_keys,
                [
                    self._keys.all_channel,
                    Kind.REVOKED,
                    self._position_seconds,
                    self._keep_seconds,
                    *chain.from_iterable(pairs),
                ],
            )
        self._apply(revocations)

    # Checking

    def is_revoked(self, caller: Caller) -> bool:
        """Whether the caller is revoked, by the copy of this instance."""
        return self._known.is_revoked(caller)

    async def is_revoked_at(self, caller: Caller, version: Position) -> bool:
        """Whether the caller is revoked, by the copy if it is at least as new as `version`, which
        Redis returned at the connect; otherwise by what Redis has now.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        own = self._version
        if self._known.is_revoked(caller):
            return True
        if own is not None and own.epoch == version.epoch and own.offset >= version.offset:
            return False
        self._sync_needed.set()
        return await self.is_revoked_in_redis(caller)

    async def check(self, caller: Caller) -> None:
        """Check the caller of a request. While pub/sub is stalled, Redis is asked. If it does not
        answer, the copy decides: what other instances revoke is seen when Redis answers again.

        Raises:
            SessionEnded: the caller is revoked.
        """
        if self._known.is_revoked(caller):
            raise SessionEnded
        now = _now()
        if (self._version is not None and now - self._received_at < self._stalled_after) or (
            now < self._ask_after
        ):
            return
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                revoked = await self.is_revoked_in_redis(caller)
        except UNAVAILABLE:
            self._ask_after = _now() + _ASK_AGAIN_SECONDS
            return
        if revoked:
            raise SessionEnded

    async def is_session_revoked(self, session_id: str) -> bool:
        """Whether a session is revoked, by what Redis has now. Also for a `sid` of the identity
        provider, with which no session has begun yet.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        key = Revocation(RevocationKind.SESSION, session_id, 0).key
        return await self._pipeline.submit("ZSCORE", self._keys.revocations, key) is not None

    async def is_revoked_in_redis(self, caller: Caller) -> bool:
        """Whether the caller is revoked, by what Redis has now.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        keys = keys_of(caller)
        found = await asyncio.gather(
            *(self._pipeline.submit("ZSCORE", self._keys.revocations, key) for key in keys)
        )
        self._apply(
            parse({key: float(at) for key, at in zip(keys, found, strict=True) if at is not None})
        )
        return self._known.is_revoked(caller)

    # The copy

    def on_message(self, data: bytes) -> None:
        """Apply a control message: epoch, number of changes, and the revocations."""
        epoch, changes, *lines = data.decode().split("\n")
        pairs = (line.split(" ", 1) for line in lines)
        self._apply(parse({key: float(at) for at, key in pairs}))
        own, sent = self._version, Position(epoch, int(changes))
        if own is None or own.epoch != epoch or sent.offset > own.offset + 1:
            self._version = None
            self._sync_needed.set()
        elif sent.offset == own.offset + 1:
            self._version = sent

    def on_subscribed(self) -> None:
        """The pub/sub probe of this instance has arrived, so messages arrive. The first one after a
        stall begins a comparison: a message may have been lost just before."""
        if self._received_at == float("-inf"):
            self._version = None
        self._received_at = _now()
        if self._version is None:
            self._sync_needed.set()

    def on_stalled(self) -> None:
        """Messages may be missing."""
        self._version = None
        self._received_at = float("-inf")

    async def run(self) -> None:
        """Compare the copy with Redis when that is needed, and every `PUBSUB_PROBE_SECONDS`, until
        cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._check_seconds):
                    await self._sync_needed.wait()
            except TimeoutError:
                pass
            self._sync_needed.clear()
            try:
                await self.sync()
            except UNAVAILABLE as error:
                logger.warning(
                    "could not read revocations: Redis unavailable", extra={"reason": why(error)}
                )
                await asyncio.sleep(_RETRY_SECONDS)
                self._sync_needed.set()

    async def sync(self) -> None:
        """Read what the copy lacks, and write what Redis has lost.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        oldest = time.time() - self._keep_seconds + _CLOCK_SECONDS
        own = self._version
        epoch, changes, differs, *found = await self._read(
            self._script_keys,
            [
                self._position_seconds,
                self._keep_seconds,
                own.epoch if own else "",
                own.offset if own else 0,
                self._known.count_since(oldest),
            ],
        )
        if differs:
            in_redis = _pairs(found)
            self._apply(parse(in_redis))
            known = self._known.since(oldest)
            await self._add([one for one in known if in_redis.get(one.key, -1.0) < one.at])
            self._version = Position(epoch.decode(), int(changes))
        self._known.remove_before(oldest - _CLOCK_SECONDS)

    def _apply(self, revocations: Iterable[Revocation]) -> None:
        if added := self._known.add(revocations):
            self.on_revoked(added)

    @property
    def _script_keys(self) -> list[str]:
        return [self._keys.all.meta, self._keys.all.stream, self._keys.revocations]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _pairs(found: Sequence[Any]) -> dict[str, float]:
    return {key.decode(): float(at) for key, at in zip(found[::2], found[1::2], strict=True)}

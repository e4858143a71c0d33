"""Sessions in Redis: sign-ins of browsers that hold a cookie instead of a token."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Final

import orjson

from bff.auth.caller import Caller
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.auth.stored import from_stored
from bff.redis.pipeline import AutoPipeline, Script
from bff.settings import Settings

_URL_SECONDS = 60
_CREATE = """
-- Store a session, with its life in one step: without the key in its cookie nobody could end it.
-- KEYS: the session; ARGV: seconds, then fields and values
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
_ADD = """
-- Add a session to a list, and forget the ones that have reached their end.
-- KEYS: zset of session ids by time of sign-in; ARGV: id, time of sign-in, longest life in seconds,
-- how many are kept
-- Returns the oldest ids beyond that number, which the list no longer holds.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2] - ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local oldest = redis.call('ZRANGE', KEYS[1], 0, -1 - ARGV[4])
if #oldest > 0 then redis.call('ZREM', KEYS[1], unpack(oldest)) end
return oldest
"""
_WRITE_TOKENS = """
-- Replace the tokens of a session that has not ended.
-- KEYS: the session; ARGV: encrypted tokens
-- Returns whether it has not ended.
if redis.call('HEXISTS', KEYS[1], 'details') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'tokens', ARGV[1])
return 1
"""

_MAX_TOUCH_SECONDS: Final = 300.0
"""How often a session is touched at least, while its connections are active."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """A completed sign-in, from which a session is made."""

    user_id: str
    username: str
    scopes: frozenset[str]
    tokens: Tokens
    provider_sid: str | None
    """The session at the identity provider (claim `sid` of the ID token)."""
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """A session as its user and administrators see it."""

    sid: str
    user_id: str
    created_at: float
    expires_at: int
    address: str
    user_agent: str


class SessionStore:
    """The sessions of all instances.

    The caller and the tokens of a session are encrypted with its key. User id, times, address and
    user agent are not: without them sessions could not be listed.
    """

    def __init__(self, pipeline: AutoPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        idle = settings.session_idle_seconds
        self.touch_seconds: Final = min(_MAX_TOUCH_SECONDS, idle / 4)
        """How often the sessions whose connections were active are touched. A key lives longer by
        this time, so that all frames of the idle time count."""
        self._idle_seconds = idle + math.ceil(self.touch_seconds)
        self._create = Script(pipeline, _CREATE)
        self._add = Script(pipeline, _ADD)
        self._write = Script(pipeline, _WRITE_TOKENS)

    async def create(self, sign_in: SignIn) -> tuple[SessionKey, list[str]]:
        """Store a session. Returns its key, and the ids of the user's oldest sessions if there are
        more than `MAX_SESSIONS_PER_USER`: the calling code must end these."""
        key, now = SessionKey.new(), time.time()
        details = SessionDetails(
            sid=key.sid,
            user_id=sign_in.user_id,
            created_at=now,
            expires_at=int(now) + self._settings.max_session_seconds,
            address=sign_in.address,
            user_agent=sign_in.user_agent[:200],
        )
        caller = [sign_in.username, sorted(sign_in.scopes)]
        fields: dict[str, str | bytes] = {
            "details": orjson.dumps(asdict(details)),
            "caller": key.encrypt(caller),
            "tokens": key.encrypt(asdict(sign_in.tokens)),
        }
        name = self._key(key.sid)
        pairs = chain.from_iterable(fields.items())
        await self._create([name], [self._idle_seconds, *pairs])
        superfluous = await self._add_to(self._user_key(sign_in.user_id), details)
        if sign_in.provider_sid:
            await self._add_to(self._provider_key(sign_in.provider_sid), details)
        return key, superfluous

    async def load(self, key: SessionKey) -> Caller | None:
        """The caller of a session, whose idle time begins again; None if it has ended.

        One round trip to Redis.
        """
        name = self._key(key.sid)
        read = self._pipeline.submit("HMGET", name, "details", "caller")
        touched = self._pipeline.submit("EXPIRE", name, self._idle_seconds)
        (details, encrypted), _ = await asyncio.gather(read, touched)
        if details is None:
            return None
        found = from_stored(SessionDetails, orjson.loads(details))
        fields = key.decrypt(encrypted)
        if fields is None or found.expires_at <= time.time():
            return None
        username, scopes = fields
        return Caller(
            user_id=found.user_id,
            username=username,
            scopes=frozenset(scopes),
            session_id=key.sid,
            expires_at=found.expires_at,
            issued_at=found.created_at,
            session=key,
        )

    async def touch(self, sids: Sequence[str]) -> list[bool]:
        """Begin the idle time of these sessions again: their connections were active. Returns which
        of them have not ended."""
        replies = await asyncio.gather(
            *(self._pipeline.submit("EXPIRE", self._key(sid), self._idle_seconds) for sid in sids)
        )
        return [bool(reply) for reply in replies]

    async def tokens(self, key: SessionKey) -> Tokens | None:
        """The tokens of a session; None if it has ended."""
        encrypted = await self._pipeline.submit("HGET", self._key(key.sid), "tokens")
        fields = None if encrypted is None else key.decrypt(encrypted)
        return None if fields is None else from_stored(Tokens, fields)

    async def write_tokens(self, key: SessionKey, tokens: Tokens) -> bool:
        """Replace the tokens of a session. Returns whether the session has not ended."""
        encrypted = key.encrypt(asdict(tokens))
        return bool(await self._write([self._key(key.sid)], [encrypted]))

    async def of_user(self, user_id: str) -> list[SessionDetails]:
        """The sessions of a user that have not ended, the newest first."""
        sids = await self._pipeline.submit("ZRANGE", self._user_key(user_id), 0, -1)
        found = await self._details(sid.decode() for sid in reversed(sids))
        now = time.time()
        return [details for details in found if details is not None and details.expires_at > now]

    async def alive(self, sids: Sequence[str]) -> list[bool]:
        """Which of these sessions have not ended."""
        now = time.time()
        found = await self._details(sids)
        return [details is not None and details.expires_at > now for details in found]

    async def end_session(self, sid: str) -> None:
        """Delete a session."""
        (details,) = await self._details([sid])
        deleted = self._pipeline.submit("DEL", self._key(sid))
        if details is not None:
            await self._pipeline.submit("ZREM", self._user_key(details.user_id), sid)
        await deleted

    async def end_user(self, user_id: str, before: float) -> list[str]:
        """Delete the sessions that a user began at this time or before. Returns their ids."""
        sids = [
            details.sid for details in await self.of_user(user_id) if details.created_at <= before
        ]
        await asyncio.gather(*(self.end_session(sid) for sid in sids))
        return sids

    async def end_provider_session(self, provider_sid: str) -> list[str]:
        """Delete the sessions that began in a session of the identity provider. Returns their
        ids."""
        name = self._provider_key(provider_sid)
        sids = [sid.decode() for sid in await self._pipeline.submit("ZRANGE", name, 0, -1)]
        await asyncio.gather(*(self.end_session(sid) for sid in sids))
        return sids

    async def keep_url(self, url: str) -> str:
        """Store the URL that ends a session at the identity provider. Returns a ticket for it,
        which is valid once, for a minute."""
        ticket = SessionKey.new()
        await self._pipeline.submit(
            "SET", self._url_key(ticket), ticket.encrypt(url), "EX", _URL_SECONDS
        )
        return ticket.cookie

    async def take_url(self, ticket: str) -> str | None:
        """The URL that the ticket was given for; None if the ticket is not valid."""
        if (key := SessionKey.parse(ticket)) is None:
            return None
        encrypted = await self._pipeline.submit("GETDEL", self._url_key(key))
        url: str | None = None if encrypted is None else key.decrypt(encrypted)
        return url

    async def _details(self, sids: Iterable[str]) -> list[SessionDetails | None]:
        read = [self._pipeline.submit("HGET", self._key(sid), "details") for sid in sids]
        return [
            None if details is None else from_stored(SessionDetails, orjson.loads(details))
            for details in await asyncio.gather(*read)
        ]

    async def _add_to(self, name: str, details: SessionDetails) -> list[str]:
        """Add a session to a list. Returns the oldest ids that it no longer holds. If it is full,
        the sessions that have ended are removed from it first."""
        limit = self._settings.max_sessions_per_user
        sids = [sid.decode() for sid in await self._pipeline.submit("ZRANGE", name, 0, -1)]
        if len(sids) >= limit:
            living = zip(sids, await self.alive(sids), strict=True)
            if ended := [sid for sid, lives in living if not lives]:
                await self._pipeline.submit("ZREM", name, *ended)
        seconds = self._settings.max_session_seconds
        oldest = await self._add([name], [details.sid, details.created_at, seconds, limit])
        return [sid.decode() for sid in oldest]

    def _key(self, sid: str) -> str:
        """hash: details, caller and tokens of a session. Expires when it was idle for too long."""
        return f"{self._settings.prefix}:session:{sid}"

    def _url_key(self, ticket: SessionKey) -> str:
        """string: the URL that ends a session at the identity provider."""
        return f"{self._settings.prefix}:sign-out:{ticket.sid}"

    def _user_key(self, user_id: str) -> str:
        """zset: ids of a user's sessions, by the time of sign-in."""
        return f"{self._settings.prefix}:sessions:user:{_digest(user_id)}"

    def _provider_key(self, provider_sid: str) -> str:
        """zset: ids of the sessions that began in one session of the identity provider."""
        return f"{self._settings.prefix}:sessions:provider:{_digest(provider_sid)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

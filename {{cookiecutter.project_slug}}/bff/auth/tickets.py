"""Single-use tickets: browsers cannot send an `Authorization` header when they open a socket."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken

from bff.auth.caller import Caller
from bff.auth.derived_cipher import derived_cipher
from bff.auth.session_key import SessionKey
from bff.auth.stored import from_stored
from bff.errors import Code, Problem
from bff.redis.pipeline import AutoPipeline, Script
from bff.settings import Settings

logger = logging.getLogger(__name__)

_MAX_TICKET = 128
_COUNT = """
-- Count a ticket of a user.
-- KEYS: counter; ARGV: seconds of a counting period
-- Returns the tickets of this period, and the seconds until the next one.
local issued = redis.call('INCR', KEYS[1])
if issued == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {issued, redis.call('TTL', KEYS[1])}
"""


class Tickets:
    """Issues and redeems tickets. Any instance can redeem what any other has issued.

    Redis stores neither the ticket nor the caller in plain text: the key of an entry contains a
    hash of the ticket, and the entry is encrypted with a key that is derived from the ticket.
    """

    def __init__(self, pipeline: AutoPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._count = Script(pipeline, _COUNT)

    async def issue(self, caller: Caller, origin: str | None) -> str:
        """A ticket for one use within `TICKET_SECONDS`; with an `origin`, only from there.

        Raises:
            Problem: `rate_limited` when the user got `MAX_TICKETS_PER_USER` tickets within
                `TICKET_SECONDS`.
        """
        ticket = secrets.token_urlsafe(32)
        entry = _cipher(ticket).encrypt(orjson.dumps([origin, _fields(caller)]))
        key, seconds = self._key(ticket), self._settings.ticket_seconds
        counted = self._count([self._count_key(caller.user_id)], [seconds])
        stored = self._pipeline.submit("SET", key, entry, "EX", seconds)
        # One round trip for both; the entry of a refused ticket is removed again.
        (issued, wait), _ = await asyncio.gather(counted, stored)
        if issued > self._settings.max_tickets_per_user:
            await self._pipeline.submit("DEL", key)
            if issued == self._settings.max_tickets_per_user + 1:
                logger.warning("tickets refused: too many", extra={"user": caller.user_id})
            raise Problem(
                Code.RATE_LIMITED, "Too many tickets: wait", retry_after_seconds=max(1, wait)
            )
        return ticket

    async def redeem(self, ticket: str, origin: str | None) -> Caller:
        """The caller that the ticket was issued to. The ticket cannot be used again.

        Raises:
            Problem: `unauthenticated` if the ticket is unknown, used or expired, if it was issued
                to another origin, or if the caller's token has expired.
        """
        if not ticket.isascii() or len(ticket) > _MAX_TICKET:
            raise _refused("not a ticket")
        entry: bytes | None = await self._pipeline.submit("GETDEL", self._key(ticket))
        if entry is None:
            raise _refused("unknown, used or expired")
        try:
            issued_to, fields = orjson.loads(_cipher(ticket).decrypt(entry))
        except (InvalidToken, ValueError):
            raise _refused("entry cannot be decrypted") from None
        if issued_to is not None and issued_to != origin:
            raise _refused("issued to another origin")
        session = fields["session"]
        fields["session"] = None if session is None else SessionKey.parse(session)
        fields["scopes"] = frozenset(fields["scopes"])
        caller = from_stored(Caller, fields)
        if caller.expires_at + self._settings.jwt_leeway_seconds < time.time():
            raise _refused("token expired")
        return caller

    def _key(self, ticket: str) -> str:
        digest = hashlib.sha256(ticket.encode()).hexdigest()
        return f"{self._settings.prefix}:ticket:{digest}"

    def _count_key(self, user_id: str) -> str:
        digest = hashlib.sha256(user_id.encode()).hexdigest()
        return f"{self._settings.prefix}:tickets:{digest}"


def _cipher(ticket: str) -> Fernet:
    return derived_cipher("entry of ", ticket.encode())


def _fields(caller: Caller) -> dict[str, Any]:
    return {
        "user_id": caller.user_id,
        "username": caller.username,
        "scopes": sorted(caller.scopes),
        "session_id": caller.session_id,
        "expires_at": caller.expires_at,
        "token_id": caller.token_id,
        "issued_at": caller.issued_at,
        "session": None if caller.session is None else caller.session.cookie,
    }


def _refused(reason: str) -> Problem:
    logger.info("ticket refused", extra={"reason": reason})
    return Problem(Code.UNAUTHENTICATED)

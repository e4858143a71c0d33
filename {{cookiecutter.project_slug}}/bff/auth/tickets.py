"""Single-use tickets: browsers cannot send an `Authorization` header when they open a socket."""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import time
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken

from bff.auth.caller import Caller
from bff.errors import Code, Problem
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

logger = logging.getLogger(__name__)

_MAX_TICKET = 128


class Tickets:
    """Issues and redeems tickets. Any instance can redeem what any other has issued.

    Redis stores neither the ticket nor the token in plain text: the key of an entry contains a hash
    of the ticket, and the entry is encrypted with a key that is derived from the ticket.
    """

    def __init__(self, pipeline: AutoPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings

    async def issue(self, caller: Caller, origin: str | None) -> str:
        """A ticket for one use within `TICKET_SECONDS`; with an `origin`, only from there."""
        ticket = secrets.token_urlsafe(32)
        entry = _cipher(ticket).encrypt(orjson.dumps([origin, _fields(caller)]))
        await self._pipeline.submit(
            "SET", self._key(ticket), entry, "EX", self._settings.ticket_seconds
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
        caller = Caller(**{**fields, "scopes": frozenset(fields["scopes"])})
        if caller.expires_at + self._settings.jwt_leeway_seconds < time.time():
            raise _refused("token expired")
        return caller

    def _key(self, ticket: str) -> str:
        digest = hashlib.sha256(ticket.encode()).hexdigest()
        return f"{self._settings.prefix}:ticket:{digest}"


def _cipher(ticket: str) -> Fernet:
    key = hashlib.sha256(b"entry of " + ticket.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))


def _fields(caller: Caller) -> dict[str, Any]:
    return {
        "user_id": caller.user_id,
        "username": caller.username,
        "scopes": sorted(caller.scopes),
        "session_id": caller.session_id,
        "expires_at": caller.expires_at,
        "token": caller.token,
    }


def _refused(reason: str) -> Problem:
    logger.info("ticket refused", extra={"reason": reason})
    return Problem(Code.UNAUTHENTICATED)

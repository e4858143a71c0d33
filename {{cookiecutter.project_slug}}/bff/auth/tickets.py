"""Single-use tickets: how a browser proves itself where it can send no header."""

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
    """Tickets that any instance issues and any instance redeems.

    Redis learns neither the ticket nor the token: the entry stands under a hash of the ticket and
    is encrypted with a key that only the ticket gives.
    """

    def __init__(self, pipeline: AutoPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings

    async def issue(self, caller: Caller, origin: str | None) -> str:
        """A ticket good for `TICKET_SECONDS`, once, and only for the origin that asked for it."""
        ticket = secrets.token_urlsafe(32)
        entry = _cipher(ticket).encrypt(orjson.dumps([origin, _fields(caller)]))
        await self._pipeline.submit(
            "SET", self._key(ticket), entry, "EX", self._settings.ticket_seconds
        )
        return ticket

    async def redeem(self, ticket: str, origin: str | None) -> Caller:
        """The caller who asked for the ticket, which is used up by that.

        Raises:
            Problem: `unauthenticated` when it is unknown, used, too old or another origin's.
        """
        if not ticket.isascii() or len(ticket) > _MAX_TICKET:
            raise _refused("it is no ticket")
        entry: bytes | None = await self._pipeline.submit("GETDEL", self._key(ticket))
        if entry is None:
            raise _refused("it is unknown, used or too old")
        try:
            asked_from, fields = orjson.loads(_cipher(ticket).decrypt(entry))
        except (InvalidToken, ValueError):
            raise _refused("its entry is not ours") from None
        if asked_from is not None and asked_from != origin:
            raise _refused("it was given to another origin")
        caller = Caller(**{**fields, "scopes": frozenset(fields["scopes"])})
        if caller.expires_at + self._settings.jwt_leeway_seconds < time.time():
            raise _refused("the token behind it has expired")
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


def _refused(why: str) -> Problem:
    logger.info("ticket refused: %s", why)
    return Problem(Code.UNAUTHENTICATED)

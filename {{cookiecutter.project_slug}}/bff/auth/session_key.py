"""The key of a session: what its cookie holds."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Final, Self

import orjson
from cryptography.fernet import Fernet, InvalidToken

from bff.auth.derived_cipher import derived_cipher

_FORM: Final = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The id of a session, and the secret that its data in Redis is encrypted with.

    Only the cookie holds the secret, and the memory of an instance during a request or a connection
    of the session.
    """

    sid: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """A random key: 128 bits of id, 256 bits of secret."""
        return cls(secrets.token_urlsafe(16), secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, cookie: str) -> Self | None:
        """The key in the value of a cookie; None if the value is not one."""
        found = _FORM.fullmatch(cookie)
        return cls(*found.groups()) if found else None

    @property
    def cookie(self) -> str:
        """The value of the cookie."""
        return f"{self.sid}.{self.secret}"

    def encrypt(self, value: Any) -> bytes:
        """A JSON value, encrypted (Fernet: AES-128-CBC and HMAC-SHA256)."""
        return self._cipher().encrypt(orjson.dumps(value))

    def decrypt(self, data: bytes) -> Any:
        """The value that `encrypt` was given; None if it was encrypted with another key."""
        try:
            return orjson.loads(self._cipher().decrypt(data))
        except (InvalidToken, ValueError):
            return None

    def _cipher(self) -> Fernet:
        return derived_cipher(f"session {self.sid} ", self.secret.encode())

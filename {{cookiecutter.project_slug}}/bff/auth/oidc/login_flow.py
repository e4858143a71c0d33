"""A sign-in that has begun: what the callback must match, in an encrypted cookie of its own."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import asdict, dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson
from cryptography.fernet import InvalidToken
from starlette.requests import HTTPConnection
from starlette.responses import Response

from bff.auth.derived_cipher import derived_cipher
from bff.auth.session_cookie import check_single
from bff.auth.stored import from_stored
from bff.errors import Code, Problem
from bff.settings import Settings

FLOW_SECONDS: Final = 600
"""How long a user may take to sign in."""
_MAX_FLOWS: Final = 8
"""Sign-ins that a browser may have begun; at the next one their cookies are deleted."""
_MAX_BYTES: Final = 6_000
"""The size of all these cookies, which every request sends: proxies limit a header, often to 8 KB.
Beyond it the earlier cookies are deleted too."""
_NAME: Final = "bff-login-"
_MAX_PATH: Final = 1000


@dataclass(frozen=True, slots=True)
class LoginFlow:
    """A sign-in between its request and its callback."""

    state: str
    nonce: str
    verifier: str
    """Of PKCE (RFC 7636)."""
    redirect_uri: str
    return_to: str
    previous: str | None
    """The id of the session that the browser had before."""

    @classmethod
    def begin(cls, return_to: str, redirect_uri: str, previous: str | None) -> Self:
        """A flow with random values."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, redirect_uri, return_to, previous)

    @property
    def challenge(self) -> str:
        """The code challenge of the method S256 (RFC 7636, section 4.2)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class FlowCookies:
    """Keeps flows in the browser. Each has a cookie of its own, so that two tabs can sign in."""

    def __init__(self, settings: Settings) -> None:
        self._cipher = derived_cipher(f"login flows of {settings.app_name}", _secret(settings))

    def set(
        self, connection: HTTPConnection, response: Response, flow: LoginFlow, *, secure: bool
    ) -> None:
        """Store a flow in the browser. SameSite=Lax: the callback is a navigation from the site of
        the provider."""
        begun = {
            name: value
            for name, value in connection.cookies.items()
            if name.startswith(_prefix(secure))
        }
        name = _name(flow.state, secure)
        value = self._cipher.encrypt(orjson.dumps(asdict(flow))).decode()
        size = sum(len(one) + len(text) for one, text in (*begun.items(), (name, value)))
        if len(begun) >= _MAX_FLOWS or size > _MAX_BYTES:
            for one in begun:
                _delete(response, one, secure=secure)
        response.set_cookie(
            name,
            value,
            max_age=FLOW_SECONDS,
            path="/",
            secure=secure,
            httponly=True,
            samesite="lax",
        )

    def read(self, connection: HTTPConnection, state: str, *, secure: bool) -> LoginFlow | None:
        """The flow with this state, if this browser has begun it.

        Raises:
            Problem: `unauthenticated` if there are two cookies of the name.
        """
        name = _name(state, secure)
        if (value := connection.cookies.get(name)) is None:
            return None
        check_single(connection, name)
        try:
            fields: dict[str, Any] = orjson.loads(self._cipher.decrypt(value, ttl=FLOW_SECONDS))
        except (InvalidToken, ValueError):
            return None
        flow = from_stored(LoginFlow, fields)
        return flow if secrets.compare_digest(flow.state.encode(), state.encode()) else None

    def delete(self, response: Response, flow: LoginFlow, *, secure: bool) -> None:
        """Forget a flow that has ended."""
        _delete(response, _name(flow.state, secure), secure=secure)


def checked_path(return_to: str) -> str:
    """The path to which a user returns.

    Raises:
        Problem: `invalid_params` unless it is a path of this host. Browsers read `\\` as `/` and
            leave out tabs and line breaks, so only visible ASCII is accepted.
    """
    visible = all("!" <= character <= "~" for character in return_to)
    parts = None
    if visible and "\\" not in return_to and len(return_to) <= _MAX_PATH:
        try:
            parts = urlsplit(return_to)
        except ValueError:
            parts = None
    if (
        parts is None
        or parts.scheme
        or parts.netloc
        or not parts.path.startswith("/")
        or return_to.startswith("//")
    ):
        raise Problem(Code.INVALID_PARAMS, "return_to: must be a path, such as /orders")
    return return_to


def _secret(settings: Settings) -> bytes:
    """The same on every instance: from what authenticates the BFF at the provider."""
    if settings.oidc_private_key_file is not None:
        return settings.oidc_private_key_file.read_bytes()
    given = settings.oidc_client_secret or settings.jwt_secret
    return given.get_secret_value().encode() if given else secrets.token_bytes(32)


def _prefix(secure: bool) -> str:
    return f"__Host-{_NAME}" if secure else _NAME


def _name(state: str, secure: bool) -> str:
    return _prefix(secure) + hashlib.sha256(state.encode()).hexdigest()[:16]


def _delete(response: Response, name: str, *, secure: bool) -> None:
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")

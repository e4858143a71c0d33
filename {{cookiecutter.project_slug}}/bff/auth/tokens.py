"""Verifies and issues tokens (JWT, RFC 7519). The only module that uses python-jose."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import httpx2
import orjson
from jose import jwk, jwt
from jose.backends.base import Key
from jose.backends.native import HMACKey
from jose.exceptions import JOSEError
from jose.utils import base64url_decode

from bff.auth.caller import Caller
from bff.auth.claims import EXPIRED, rejection_reason
from bff.auth.remote_document import RemoteDocument
from bff.errors import Code, Problem
from bff.settings import HMAC_ALGORITHMS, PUBLIC_KEY_ALGORITHMS, Settings

logger = logging.getLogger(__name__)

MAX_TOKEN: Final = 16_384
"""The maximum length of a token, in characters."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_RSA = ("RS256", "RS384", "RS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")
"""The members of a JWK that make up a public key. All others are ignored."""
_MIN_RSA_BYTES = 256
"""2048 bits (RFC 7518, section 3.3)."""

_Keys: TypeAlias = Mapping[tuple[str | None, str], tuple[Key, ...]]
"""Keys by key id and algorithm. Under the id None: all keys of the algorithm."""


class _Secret(HMACKey):
    """A shared secret whose HMAC is initialised once, not for each token."""

    def __init__(self, secret: str, algorithm: str) -> None:
        super().__init__(secret, algorithm)
        self._prepared = hmac.new(self.prepared_key, digestmod=algorithm.replace("HS", "sha"))

    def sign(self, msg: bytes) -> bytes:  # type: ignore[override]
        signature = self._prepared.copy()
        signature.update(msg)
        return signature.digest()


class SignedTokens:
    """Checks the signature of tokens, and returns their claims, which it does not check."""

    def __init__(
        self,
        algorithms: Iterable[str],
        *,
        secrets: Sequence[str] = (),
        jwks_url: str | None = None,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        """`secrets` sign with HMAC; the keys at `jwks_url` are public.

        Raises:
            ValueError: an algorithm is not supported.
        """
        self._algorithms = frozenset(algorithms)
        self._jwks: RemoteDocument[_Keys] | None = None
        self._secrets: _Keys = {}
        supported = HMAC_ALGORITHMS if jwks_url is None else PUBLIC_KEY_ALGORITHMS
        unknown = sorted(self._algorithms - set(supported))
        if unknown:
            raise ValueError(f"JWT_ALGORITHMS: {unknown[0]} is not one of {', '.join(supported)}")
        if jwks_url is not None:
            self._jwks = RemoteDocument(jwks_url, self._parse, http or httpx2.AsyncClient())
        elif secrets:
            self._secrets = {
                (None, name): tuple(_Secret(secret, name) for secret in secrets)
                for name in supported
            }

    async def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature is valid.

        Raises:
            Problem: `unauthenticated` if it is not; `service_unavailable` while the keys of the
                identity provider have never been fetched.
        """
        if len(token) > MAX_TOKEN or not _COMPACT.fullmatch(token):
            raise refused("not a token")
        algorithm, key_id = _header(token.partition(".")[0])
        if algorithm not in self._algorithms:
            raise refused("algorithm is not accepted")
        keys = await self._find(algorithm, key_id)
        if not keys:
            raise refused("unknown key")
        return _verified(token, keys)

    async def usable_keys(self) -> int:
        """How many keys can verify tokens. Fetches those of the identity provider if that was never
        done.

        Raises:
            LookupError: the keys of the identity provider could never be fetched, and why.
        """
        if self._jwks is None:
            return len(next(iter(self._secrets.values()), ()))
        try:
            keys = await self._jwks.current()
        except Problem:
            raise LookupError(self._jwks.error) from None
        return len({id(key) for found in keys.values() for key in found})

    async def close(self) -> None:
        """Cancel a running fetch of keys and close the HTTP client."""
        if self._jwks is not None:
            await self._jwks.close()

    async def _find(self, algorithm: str, key_id: str | None) -> tuple[Key, ...]:
        if self._jwks is None:
            return self._secrets.get((None, algorithm), ())
        keys = await self._jwks.current()
        if (key_id, algorithm) not in keys:
            keys = await self._jwks.newer()
        return keys.get((key_id, algorithm), ())

    def _parse(self, document: bytes) -> _Keys:
        """The usable keys of a JWK set.

        Raises:
            ValueError: it has no usable key.
        """
        keys: defaultdict[tuple[str | None, str], list[Key]] = defaultdict(list)
        for entry in orjson.loads(document)["keys"]:
            for algorithm in _algorithms_of(entry):
                if algorithm not in self._algorithms:
                    continue
                if (key := _construct(entry, algorithm)) is not None:
                    for key_id in {None, entry.get("kid")}:
                        keys[key_id, algorithm].append(key)
        if not keys:
            raise ValueError("no usable key in the JWK set")
        return {name: tuple(found) for name, found in keys.items()}


class TokenVerifier:
    """Verifies the tokens of callers. Make one and keep it: it caches the keys."""

    def __init__(self, settings: Settings, http: httpx2.AsyncClient | None = None) -> None:
        """
        Raises:
            ValueError: `JWT_ALGORITHMS` contains an algorithm that is not supported.
        """
        self._settings = settings
        self.tokens = SignedTokens(
            settings.jwt_algorithms,
            secrets=settings.jwt_secrets,
            jwks_url=settings.jwks_url,
            http=http,
        )

    async def verify(self, token: str) -> Caller:
        """The caller that a token identifies.

        Raises:
            Problem: `unauthenticated` if the token is invalid; `service_unavailable` while the keys
                of the identity provider have never been fetched.
        """
        claims = await self.tokens.claims(token)
        reason = rejection_reason(claims, self._settings)
        if reason is not None:
            raise refused(reason, "The token has expired" if reason == EXPIRED else None)
        return Caller.from_claims(claims)


def _verified(token: str, keys: tuple[Key, ...]) -> dict[str, Any]:
    """The claims of a token that one of the keys has signed."""
    signed, _, signature = token.rpartition(".")
    try:
        proof = base64url_decode(signature.encode())
        is_signed = any(key.verify(signed.encode(), proof) for key in keys)
        claims = orjson.loads(base64url_decode(signed.partition(".")[2].encode()))
    except Exception as error:  # untrusted input: anything can be wrong with it
        raise refused(type(error).__name__) from None
    if not is_signed:
        raise refused("wrong signature")
    if not isinstance(claims, dict):
        raise refused("claims are not a JSON object")
    return claims


@lru_cache(maxsize=64)
def _header(encoded: str) -> tuple[str, str | None]:
    """Algorithm and key id from the header of a token, not verified yet.

    Cached, because most tokens have the same header.
    """
    try:
        header = orjson.loads(base64url_decode(encoded.encode()))
    except Exception:  # untrusted input: anything can be wrong with it
        raise refused("malformed header") from None
    if not isinstance(header, dict):
        raise refused("malformed header")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None) or "crit" in header:
        raise refused("unsupported header")
    return algorithm, key_id


def _algorithms_of(entry: Any) -> tuple[str, ...]:
    """The algorithms that a public key of a JWK set may verify. None for symmetric keys."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str | None):
        return ()
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return ()
    if entry.get("use", "sig") != "sig":
        return ()
    possible: tuple[str, ...] = ()
    if entry.get("kty") == "RSA":
        possible = _RSA
    elif entry.get("kty") == "EC":
        possible = tuple(name for curve, name in _CURVES.items() if entry.get("crv") == curve)
    return tuple(name for name in possible if entry.get("alg", name) == name)


def _construct(entry: dict[str, Any], algorithm: str) -> Key | None:
    public = {name: value for name, value in entry.items() if name in _PUBLIC}
    try:
        if public["kty"] == "RSA" and len(base64url_decode(public["n"].encode())) < _MIN_RSA_BYTES:
            raise ValueError("an RSA key of less than 2048 bits")
        return jwk.construct(public, algorithm)
    except (JOSEError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning(
            "key of the identity provider ignored",
            extra={"error": f"{type(error).__name__}: {error}"},
        )
        return None


def refused(reason: str, description: str | None = None) -> Problem:
    """`reason` is logged: it must not contain any part of the token."""
    logger.info("token refused", extra={"reason": reason})
    return Problem(Code.UNAUTHENTICATED, description)


def issue(
    settings: Settings,
    user: str,
    scopes: Iterable[str] = (),
    lifetime: float = 3600,
    *,
    username: str | None = None,
    session_id: str | None = None,
    token_id: str | None = None,
) -> str:
    """A token for `user` that is valid for `lifetime` seconds.

    Raises:
        ValueError: `JWT_SECRET` is not set.
    """
    if settings.jwt_secret is None:
        raise ValueError(
            "cannot issue tokens: JWT_SECRET is not set, your identity provider issues them"
        )
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user, "iat": now, "exp": int(now + lifetime)}
    optional = {
        "scope": " ".join(scopes),
        "username": username,
        "sid": session_id,
        "jti": token_id,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
    }
    claims |= {name: value for name, value in optional.items() if value}
    return jwt.encode(
        claims, settings.jwt_secret.get_secret_value(), algorithm=settings.jwt_algorithms[0]
    )

"""The identity provider of `OIDC_ISSUER=memory://`, for development and tests: no passwords."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import orjson
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from bff.auth.derived_cipher import derived_cipher
from bff.auth.oidc.provider import MEMORY_ISSUER
from bff.development.page import page_policy
from bff.errors import Code, Problem
from bff.http_headers import NO_STORE
from bff.settings import Settings

_PATH: Final = "/dev/identity-provider"
_PAGE: Final = Path(__file__).with_name("identity_provider.html")
_CODE_SECONDS: Final = 60
_REFRESH_SECONDS: Final = 24 * 3600
_MAX_USED: Final = 10_000
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def embedded(settings: Settings) -> EmbeddedIdentityProvider | None:
    """The provider, if `OIDC_ISSUER` is `memory://`."""
    is_embedded = settings.oidc_issuer == "memory://"
    return EmbeddedIdentityProvider(settings) if is_embedded else None


class EmbeddedIdentityProvider:
    """Signs in anybody as anyone.

    Codes and tokens are encrypted, under keys that are derived from `JWT_SECRET`. So a sign-in
    outlives the reload of the process.
    """

    def __init__(self, settings: Settings) -> None:
        secret = settings.jwt_secret
        seed = secret.get_secret_value().encode() if secret else secrets.token_bytes(32)
        number = int.from_bytes(hashlib.sha512(b"identity provider " + seed).digest(), "big")
        self._private = ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())
        self._cipher = derived_cipher("codes of the identity provider ", seed)
        self._settings = settings
        self._client_id = settings.oidc_client_id or "bff"
        self._used: OrderedDict[str, None] = OrderedDict()
        self.access_token_seconds = 300
        """How long access tokens are valid."""
        self.token_requests: list[str] = []
        """The grant types of the requests to the token endpoint, for tests."""

    # What the browser sees

    def router(self) -> APIRouter:
        """The pages."""
        router = APIRouter(prefix=_PATH, include_in_schema=False)
        html = _PAGE.read_text(encoding="utf-8")
        policy = page_policy(html).replace("form-action 'none'", "form-action 'self'")
        headers = {"Cache-Control": NO_STORE, "Content-Security-Policy": policy}

        @router.get("/authorize")
        async def ask(request: Request, redirect_uri: str) -> HTMLResponse:
            self._check_redirect(request, redirect_uri)
            return HTMLResponse(html, headers=headers)

        @router.post("/authorize")
        async def answer(
            request: Request,
            redirect_uri: str,
            state: str,
            nonce: str,
            code_challenge: str,
        ) -> Response:
            self._check_redirect(request, redirect_uri)
            form = _fields(await request.body())
            parameters = {"state": state, "iss": MEMORY_ISSUER}
            if form.get("answer") != "allow" or not form.get("user"):
                parameters["error"] = "access_denied"
            else:
                parameters["code"] = self.code(
                    form["user"],
                    form.get("scopes", ""),
                    nonce=nonce,
                    challenge=code_challenge,
                    redirect_uri=redirect_uri,
                )
            return RedirectResponse(f"{redirect_uri}?{urlencode(parameters)}", 303)

        @router.get("/logout")
        async def log_out(
            request: Request, post_logout_redirect_uri: Annotated[str, Query()]
        ) -> Response:
            self._check_host(request, "post_logout_redirect_uri", post_logout_redirect_uri)
            return RedirectResponse(post_logout_redirect_uri, 303)

        return router

    def _check_redirect(self, request: Request, redirect_uri: str) -> None:
        self._check_host(request, "redirect_uri", redirect_uri)
        if not redirect_uri.endswith("/auth/callback"):
            raise Problem(Code.INVALID_PARAMS, "redirect_uri: is not the callback of this BFF")

    def _check_host(self, request: Request, name: str, url: str) -> None:
        if urlsplit(url).netloc != request.url.netloc:
            raise Problem(Code.INVALID_PARAMS, f"{name}: is not of this host")

    # What the BFF asks

    def transport(self) -> httpx2.AsyncBaseTransport:
        """Answers the requests of the BFF to the provider."""
        return httpx2.MockTransport(lambda request: self._respond(request))

    async def _respond(self, request: httpx2.Request) -> httpx2.Response:
        form = _fields(request.content)
        match request.url.path:
            case "/.well-known/openid-configuration":
                return httpx2.Response(200, json=self._metadata())
            case "/keys":
                return httpx2.Response(200, json={"keys": [self._key().as_dict(private=False)]})
            case "/token":
                return self._token(form)
            case "/userinfo":
                token = request.headers["authorization"].removeprefix("Bearer ")
                fields = self._open(token, "access", self.access_token_seconds)
                if fields is None:
                    return httpx2.Response(401)
                return httpx2.Response(200, json={"sub": fields["user"], "name": fields["user"]})
            case "/revoke":
                self._use(form["token"])
                return httpx2.Response(200)
        return httpx2.Response(404)

    def _metadata(self) -> dict[str, Any]:
        pages = self._settings.root_path + _PATH
        return {
            "issuer": MEMORY_ISSUER,
            "authorization_endpoint": f"{pages}/authorize",
            "end_session_endpoint": f"{pages}/logout",
            "token_endpoint": f"{MEMORY_ISSUER}/token",
            "userinfo_endpoint": f"{MEMORY_ISSUER}/userinfo",
            "revocation_endpoint": f"{MEMORY_ISSUER}/revoke",
            "jwks_uri": f"{MEMORY_ISSUER}/keys",
            "authorization_response_iss_parameter_supported": True,
        }

    def code(self, user: str, scopes: str, **request: str) -> str:
        """An authorization code for a user; `request` has `nonce`, `challenge`, `redirect_uri`."""
        sid = secrets.token_urlsafe(16)
        return self._seal("code", {"user": user, "scope": scopes, "sid": sid, **request})

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token that the provider has signed."""
        from joserfc import jwt

        key = self._key()
        return jwt.encode({"alg": "ES256", "kid": key.kid}, dict(claims), key)

    def _token(self, form: Mapping[str, str]) -> httpx2.Response:
        grant = form.get("grant_type", "")
        self.token_requests.append(grant)
        del self.token_requests[:-_MAX_USED]
        if grant == "authorization_code":
            fields = self._open(form.get("code", ""), "code", _CODE_SECONDS)
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            is_good = fields is not None and (fields["challenge"], fields["redirect_uri"]) == (
                challenge,
                form.get("redirect_uri"),
            )
            used = form.get("code", "")
        else:
            used = form.get("refresh_token", "")
            fields = self._open(used, "refresh", _REFRESH_SECONDS)
            is_good = fields is not None
        if fields is None or not is_good or not self._use(used):
            return httpx2.Response(400, json={"error": "invalid_grant"})
        return httpx2.Response(200, json=self._tokens(fields))

    def _tokens(self, fields: Mapping[str, str]) -> dict[str, Any]:
        now = int(time.time())
        user = {name: fields[name] for name in ("user", "scope", "sid", "nonce")}
        claims = {
            "iss": MEMORY_ISSUER,
            "aud": self._client_id,
            "sub": fields["user"],
            "sid": fields["sid"],
            "scope": fields["scope"],
            "nonce": fields["nonce"],
            "iat": now,
            "exp": now + 300,
        }
        return {
            "token_type": "Bearer",
            "access_token": self._seal("access", user),
            "refresh_token": self._seal("refresh", user),
            "expires_in": self.access_token_seconds,
            "id_token": self.sign(claims),
        }

    def _use(self, token: str) -> bool:
        """Remember that a code or refresh token was used; False if it was before."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        if digest in self._used:
            return False
        self._used[digest] = None
        if len(self._used) > _MAX_USED:
            self._used.popitem(last=False)
        return True

    def _seal(self, kind: str, fields: Mapping[str, str]) -> str:
        return self._cipher.encrypt(orjson.dumps({**fields, "kind": kind})).decode()

    def _open(self, token: str, kind: str, seconds: int) -> dict[str, str] | None:
        try:
            fields: dict[str, str] = orjson.loads(self._cipher.decrypt(token, ttl=seconds))
        except (InvalidToken, ValueError):
            return None
        return fields if fields.get("kind") == kind else None

    def _key(self) -> Any:
        from cryptography.hazmat.primitives import serialization
        from joserfc.jwk import ECKey

        pem = self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return ECKey.import_key(pem, {"use": "sig", "kid": "development"})


def _fields(form: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(form.decode()).items()}

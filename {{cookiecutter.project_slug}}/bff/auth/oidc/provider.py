"""The requests of the BFF to the identity provider. The only module that uses Authlib."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import httpx2

from bff.auth.oidc.errors import AnswerLost, GrantRefused
from bff.auth.oidc.metadata import ProviderMetadata
from bff.auth.remote_document import RemoteDocument
from bff.auth.tokens import SignedTokens
from bff.errors import Code, Problem
from bff.settings import PUBLIC_KEY_ALGORITHMS, Settings

logger = logging.getLogger(__name__)

MEMORY_ISSUER: Final = "http://identity-provider.memory"
"""The issuer of the provider inside this process."""

_SECONDS: Final = 10.0
"""The longest time that one request to the provider may take."""
_REQUEST: Final[dict[str, Any]] = {"timeout": 5.0, "follow_redirects": False}
_METADATA_SECONDS: Final = 3600
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


class IdentityProvider:
    """The identity provider of `OIDC_ISSUER`, as its confidential client sees it."""

    def __init__(
        self, settings: Settings, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        """`transport`: how requests are sent, for a provider inside this process.

        Raises:
            ValueError: `OIDC_PRIVATE_KEY_FILE` holds no usable key.
        """
        assert settings.oidc_issuer is not None  # noqa: S101
        self.issuer = MEMORY_ISSUER if settings.oidc_issuer == "memory://" else settings.oidc_issuer
        self.client_id = settings.oidc_client_id or "bff"
        self._has_key = settings.oidc_private_key_file is not None
        self._http = httpx2.AsyncClient(transport=transport, **_REQUEST)
        self._oauth = _client(settings, self.client_id, transport)
        self._metadata = RemoteDocument(
            f"{self.issuer.rstrip('/')}/.well-known/openid-configuration",
            lambda document: ProviderMetadata.parse(document, self.issuer),
            self._http,
            name="metadata",
            max_age=_METADATA_SECONDS,
        )
        self._tokens: tuple[str, SignedTokens] | None = None
        """The keys at a URL, which the metadata names."""

    @property
    def error(self) -> str:
        """Why the metadata could not be fetched."""
        return self._metadata.error

    async def metadata(self) -> ProviderMetadata:
        """What the provider says about itself.

        Raises:
            Problem: `service_unavailable` while it could never be fetched.
        """
        return await self._metadata.current()

    async def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that the provider has signed. Only the signature is checked.

        Raises:
            Problem: `unauthenticated`; `service_unavailable` while its keys could never be fetched.
        """
        uri = (await self.metadata()).jwks_uri
        if self._tokens is None or self._tokens[0] != uri:
            tokens = SignedTokens(PUBLIC_KEY_ALGORITHMS, jwks_url=uri, http=self._http)
            self._tokens = uri, tokens
        return await self._tokens[1].claims(token)

    async def authorization_url(self, parameters: Mapping[str, str]) -> str:
        """Where the browser is sent. The parameters go directly to the provider if it accepts that
        (RFC 9126), and otherwise into the URL.

        Raises:
            Problem: `service_unavailable`.
        """
        metadata = await self.metadata()
        complete = {"client_id": self.client_id, **parameters}
        if metadata.pushed_authorization_request_endpoint is not None:
            pushed = await self._push(metadata, complete)
            complete = {"client_id": self.client_id, "request_uri": pushed}
        return _with_query(metadata.authorization_endpoint, complete)

    async def redeem(self, code: str, verifier: str, redirect_uri: str) -> dict[str, Any]:
        """The tokens for an authorization code (RFC 6749, section 4.1.3; RFC 7636).

        Raises:
            GrantRefused: the code is not valid, or was used before.
            Problem: `service_unavailable`.
        """
        metadata = await self.metadata()
        try:
            return await self._asked(
                lambda auth: self._oauth.fetch_token(
                    metadata.token_endpoint,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=verifier,
                    redirect_uri=redirect_uri,
                    auth=auth,
                ),
                metadata,
            )
        except AnswerLost:
            raise _unavailable() from None

    async def refresh(self, refresh_token: str) -> dict[str, Any]:
        """New tokens (RFC 6749, section 6).

        Raises:
            GrantRefused: the refresh token is not valid any more.
            AnswerLost: it may have been used: the provider did not answer in time.
            Problem: `service_unavailable`; the refresh token was not used.
        """
        metadata = await self.metadata()
        return await self._asked(
            lambda auth: self._oauth.refresh_token(
                metadata.token_endpoint, refresh_token=refresh_token, auth=auth
            ),
            metadata,
        )

    async def userinfo(self, access_token: str) -> dict[str, Any]:
        """The claims of the userinfo endpoint; none if the provider has no such endpoint.

        Raises:
            Problem: `service_unavailable`.
        """
        endpoint = (await self.metadata()).userinfo_endpoint
        if endpoint is None:
            return {}
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self._http.get(endpoint, headers=headers)
            response.raise_for_status()
            claims = response.json()
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            raise _unavailable(error) from None
        return claims if isinstance(claims, dict) else {}

    async def revoke(self, token: str, hint: str) -> None:
        """Revoke a token (RFC 7009), if the provider can.

        Raises:
            Problem: `service_unavailable`; the token may not have been revoked.
        """
        metadata = await self.metadata()
        if metadata.revocation_endpoint is None:
            return
        form = {"token": token, "token_type_hint": hint}
        await self._post(metadata, metadata.revocation_endpoint, form)

    async def end_session_url(self, id_token: str, return_to: str) -> str | None:
        """Where the browser is sent to end its session at the provider (OpenID Connect RP-Initiated
        Logout 1.0); None if the provider has no such endpoint, or is unavailable."""
        try:
            endpoint = (await self.metadata()).end_session_endpoint
        except Problem:
            return None
        if endpoint is None:
            return None
        parameters = {
            "client_id": self.client_id,
            "id_token_hint": id_token,
            "post_logout_redirect_uri": return_to,
        }
        return _with_query(endpoint, parameters)

    async def close(self) -> None:
        """Cancel running fetches and close the HTTP clients."""
        await self._metadata.close()
        if self._tokens is not None:
            await self._tokens[1].close()
        await self._oauth.aclose()

    async def _push(self, metadata: ProviderMetadata, parameters: Mapping[str, str]) -> str:
        endpoint = metadata.pushed_authorization_request_endpoint or ""
        response = await self._post(metadata, endpoint, parameters)
        try:
            return str(response.json()["request_uri"])
        except (ValueError, KeyError, TypeError) as error:
            raise _unavailable(error) from None

    async def _post(
        self, metadata: ProviderMetadata, endpoint: str, form: Mapping[str, str]
    ) -> httpx2.Response:
        method = self._auth_method(metadata)
        auth = self._oauth.client_auth(method)
        if method == "client_secret_post":  # Authlib adds the id
            form = {name: value for name, value in form.items() if name != "client_id"}
        try:
            async with asyncio.timeout(_SECONDS):
                response: httpx2.Response = await self._oauth.post(
                    endpoint, data=form, headers=_FORM, auth=auth
                )
            response.raise_for_status()
        except (httpx2.HTTPError, TimeoutError) as error:
            raise _unavailable(error) from None
        return response

    async def _asked(
        self,
        ask: Callable[[Any], Awaitable[Mapping[str, Any]]],
        metadata: ProviderMetadata,
    ) -> dict[str, Any]:
        """The answer of the token endpoint."""
        auth = self._oauth.client_auth(self._auth_method(metadata))
        try:
            async with asyncio.timeout(_SECONDS):
                return dict(await ask(auth))
        except self._oauth.oauth_error_class as error:
            if error.error != "invalid_grant":
                raise _unavailable(error, str(error.error)) from None
            raise GrantRefused from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise _unavailable(error) from None
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            _log_failure(error)
            raise AnswerLost from None

    def _auth_method(self, metadata: ProviderMetadata) -> str:
        if self._has_key:
            return "private_key_jwt"
        supported = metadata.token_endpoint_auth_methods_supported
        post = "client_secret_post"
        use_post = "client_secret_basic" not in supported and post in supported
        return post if use_post else "client_secret_basic"


def _client(settings: Settings, client_id: str, transport: httpx2.AsyncBaseTransport | None) -> Any:
    """
    Raises:
        ValueError: `OIDC_PRIVATE_KEY_FILE` holds no usable key.
    """
    secret: Any = settings.oidc_client_secret
    secret = "memory" if secret is None else secret.get_secret_value()
    algorithm = "RS256"
    if settings.oidc_private_key_file is not None:
        secret, algorithm = _key(settings.oidc_private_key_file.read_bytes())
    # Authlib takes 0.3 s to import, and is not needed without OIDC_ISSUER.
    from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped]
    from authlib.oauth2.rfc7523 import PrivateKeyJWT  # type: ignore[import-untyped]

    client = AsyncOAuth2Client(client_id, secret, transport=transport, **_REQUEST)
    client.register_client_auth_method(PrivateKeyJWT(alg=algorithm))
    client.register_client_auth_method(("client_secret_basic", _basic))
    return client


def _key(pem: bytes) -> tuple[Any, str]:
    from joserfc.jwk import ECKey, RSAKey

    try:
        return RSAKey.import_key(pem), "RS256"
    except Exception:  # joserfc and cryptography raise many kinds
        try:
            key = ECKey.import_key(pem)
        except Exception as error:
            raise ValueError(f"OIDC_PRIVATE_KEY_FILE: {type(error).__name__}") from None
    if key.curve_name != "P-256":
        raise ValueError("OIDC_PRIVATE_KEY_FILE: an EC key must be of the curve P-256")
    return key, "ES256"


def _basic(client: Any, _method: str, uri: str, headers: Any, body: Any) -> tuple[str, Any, Any]:
    """HTTP Basic with id and secret encoded as in a form (RFC 6749, section 2.3.1), which Authlib
    leaves out."""
    login = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return uri, headers, body


def _with_query(url: str, parameters: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"


def _log_failure(error: Exception, reason: str = "") -> None:
    """The text of an HTTP error may contain a URL with a code, so only its kind is logged."""
    reason = reason or type(error).__name__
    if isinstance(error, httpx2.HTTPStatusError):
        reason = f"HTTP {error.response.status_code}"
    logger.warning("request to the identity provider failed", extra={"reason": reason})


def _unavailable(error: Exception | None = None, reason: str = "") -> Problem:
    """The problem for the caller. `error` is logged; None if it was logged already."""
    if error is not None:
        _log_failure(error, reason)
    return Problem(Code.SERVICE_UNAVAILABLE, "The identity provider is not available at the moment")

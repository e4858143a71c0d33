"""Signs users in at the identity provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from bff.auth.caller import Caller, scopes_in
from bff.auth.oidc.access_tokens import AccessTokens
from bff.auth.oidc.errors import GrantRefused
from bff.auth.oidc.id_token import rejection_reason
from bff.auth.oidc.login_flow import FlowCookies, LoginFlow
from bff.auth.oidc.provider import IdentityProvider
from bff.auth.session_tokens import Tokens
from bff.auth.sessions import SessionStore, SignIn
from bff.errors import Code, Problem
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

Authorize = Callable[[Mapping[str, Any], frozenset[str]], Awaitable[Iterable[str]]]
"""The app's decision about a user who signs in. It gets the claims, and the scopes according to
`OIDC_SCOPES_CLAIM`; it returns the user's scopes, or raises `Problem` with `forbidden`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider tells the callback."""

    code: str | None
    error: str | None
    issuer: str | None


class SignInRefused(Exception):
    """The sign-in did not succeed. The text is for the log, and contains nothing secret."""


class SignIns:
    """Begins and completes sign-ins."""

    def __init__(
        self,
        settings: Settings,
        pipeline: AutoPipeline,
        sessions: SessionStore,
        end_session: Callable[[Caller], Awaitable[None]],
        authorize: Authorize | None,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        """`end_session` ends the session of a caller, and its connections, when the provider has
        refused a refresh. `transport`: how the provider is reached, if it is inside this process.

        Raises:
            ValueError: `OIDC_PRIVATE_KEY_FILE` holds no usable key.
        """
        self._settings = settings
        self._authorize = authorize
        self.provider = IdentityProvider(settings, transport)
        self.flows = FlowCookies(settings)
        self.access_tokens = AccessTokens(pipeline, settings, sessions, self.provider, end_session)

    async def close(self) -> None:
        """Cancel what still runs, and close the connections to the provider."""
        await self.access_tokens.stop()
        await self.provider.close()

    async def authorization_url(self, flow: LoginFlow) -> str:
        """Where the browser signs in.

        Raises:
            Problem: `service_unavailable` if the provider does not answer.
        """
        return await self.provider.authorization_url(
            {
                "response_type": "code",
                "scope": " ".join(self._settings.oidc_scopes),
                "redirect_uri": flow.redirect_uri,
                "state": flow.state,
                "nonce": flow.nonce,
                "code_challenge": flow.challenge,
                "code_challenge_method": "S256",
            }
        )

    async def complete(
        self, flow: LoginFlow, answer: Answer, *, address: str, user_agent: str
    ) -> SignIn:
        """The user of a sign-in whose state was checked.

        Raises:
            SignInRefused: the provider refused it, or its answer is not for this sign-in.
            Problem: `forbidden`, from the app; `service_unavailable` if the provider does not
                answer.
        """
        await self._check_issuer(answer)
        if answer.error is not None or answer.code is None:
            raise SignInRefused("the provider refused")
        try:
            response = await self.provider.redeem(answer.code, flow.verifier, flow.redirect_uri)
        except GrantRefused:
            raise SignInRefused("the provider refused the code") from None
        tokens = Tokens.from_response(response)
        if tokens is None or not tokens.id_token:
            raise SignInRefused("the provider sent no ID token or no access token")
        claims = await self._claims(tokens, flow.nonce)
        caller = Caller.from_claims(claims)
        scopes = scopes_in(_at(claims, self._settings.oidc_scopes_claim)) or frozenset()
        if self._authorize is not None:
            scopes = frozenset(await self._authorize(claims, scopes))
        sid = claims.get("sid")
        return SignIn(
            user_id=caller.user_id,
            username=caller.username,
            scopes=scopes,
            tokens=tokens,
            provider_sid=sid if isinstance(sid, str) and sid else None,
            address=address,
            user_agent=user_agent,
        )

    async def _check_issuer(self, answer: Answer) -> None:
        """Against mix-up attacks (RFC 9207): the answer must come from our provider."""
        metadata = await self.provider.metadata()
        is_required = metadata.authorization_response_iss_parameter_supported
        if answer.issuer != metadata.issuer and (is_required or answer.issuer is not None):
            raise SignInRefused("the answer names another issuer")

    async def _claims(self, tokens: Tokens, nonce: str) -> dict[str, Any]:
        """The claims of the ID token, and those that only the userinfo endpoint knows."""
        try:
            claims = await self.provider.claims(tokens.id_token)
        except Problem as problem:
            if problem.code is Code.UNAUTHENTICATED:
                raise SignInRefused("the signature of the ID token is not valid") from None
            raise
        provider = self.provider
        reason = rejection_reason(
            claims, issuer=provider.issuer, client_id=provider.client_id, nonce=nonce
        )
        if reason is not None:
            raise SignInRefused(f"ID token: {reason}")
        more = await provider.userinfo(tokens.access_token)
        if more and more.get("sub") != claims.get("sub"):
            raise SignInRefused("the userinfo endpoint answered for another user")
        return more | claims


def _at(claims: Mapping[str, Any], path: str) -> object:
    """The value at a path of names with dots. A claim whose own name is the path comes first."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value

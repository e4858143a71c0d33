"""`POST /auth/backchannel-logout`: the identity provider ends sessions (OpenID Connect Back-Channel
Logout 1.0)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, status
from fastapi.responses import JSONResponse

from bff.application import Bff
from bff.audit.log import AuditOutcome
from bff.auth.logout_token import MAX_AGE_SECONDS, Logout, LogoutRefused
from bff.endpoints.dependencies import BffDep, address_of
from bff.errors import Code, Problem
from bff.problems import responses

router = APIRouter(tags=["auth"])

_FORM: Final = "application/x-www-form-urlencoded"
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "required": ["logout_token"],
                    "properties": {"logout_token": {"type": "string"}},
                }
            }
        },
    }
}


_CLAIM_SECONDS: Final = 10
"""How long a logout token that is being handled cannot be used by another request. To end sessions
twice would change nothing."""


class _Issuer(NamedTuple):
    """Whose logout tokens are accepted."""

    issuer: str
    audience: str
    claims: Callable[[str], Awaitable[dict[str, Any]]]
    """The claims of a token whose signature is valid."""


@router.post(
    "/backchannel-logout",
    summary="End sessions, for the identity provider",
    openapi_extra=_BODY,
    responses={400: {"description": "The logout token is not valid"}, **responses(404, 429, 503)},
)
async def log_out_by_provider(request: Request, bff: BffDep) -> JSONResponse:
    """The session that the token names, or all sessions of its user, end on every instance."""
    issuer = _issuer(bff)
    bff.handshake_limit.check(address_of(request))
    try:
        logout = await _verified(request, bff, issuer)
        await _once(bff, logout)
    except LogoutRefused as refused:
        bff.audit.record(
            "provider_logout",
            outcome=AuditOutcome.REFUSED,
            address=address_of(request),
            reason=str(refused),
        )
        body = {"error": "invalid_request", "error_description": str(refused)}
        return JSONResponse(body, status.HTTP_400_BAD_REQUEST)
    bff.audit.record(
        "provider_logout",
        user=logout.user_id,
        session=logout.session_id,
        address=address_of(request),
    )
    return JSONResponse({})


def _issuer(bff: Bff) -> _Issuer:
    """
    Raises:
        Problem: `not_found` if the settings name no identity provider.
    """
    if bff.sign_ins is not None:
        provider = bff.sign_ins.provider
        return _Issuer(provider.issuer, provider.client_id, provider.claims)
    settings = bff.settings
    audience = settings.oidc_client_id or settings.jwt_audience
    if settings.jwt_issuer is None or audience is None:
        raise Problem(Code.NOT_FOUND, "Set OIDC_ISSUER, or JWT_ISSUER and OIDC_CLIENT_ID")
    return _Issuer(settings.jwt_issuer, audience, bff.verifier.tokens.claims)


async def _verified(request: Request, bff: Bff, issuer: _Issuer) -> Logout:
    """
    Raises:
        LogoutRefused: there is no valid logout token.
        Problem: `service_unavailable`, the keys of the provider could never be fetched.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise LogoutRefused("not a form")
    tokens = parse_qs((await request.body()).decode("latin-1")).get("logout_token", [])
    if len(tokens) != 1:
        raise LogoutRefused("there must be one logout_token")
    try:
        claims = await issuer.claims(tokens[0])
    except Problem as problem:
        if problem.code is not Code.UNAUTHENTICATED:
            raise
        raise LogoutRefused("wrong signature, or not a token") from None
    return Logout.from_claims(
        claims,
        issuer=issuer.issuer,
        audience=issuer.audience,
        leeway=bff.settings.jwt_leeway_seconds,
    )


async def _once(bff: Bff, logout: Logout) -> None:
    """End the sessions, unless this token has done it already.

    Raises:
        LogoutRefused: the token was used before.
        RedisError, OSError, TimeoutError: Redis is unavailable.

    After any failure the token can be used again: at once, or after `_CLAIM_SECONDS` if Redis could
    not be told. It is marked as used only when the sessions have ended.
    """
    pipeline = bff.cluster.pipeline
    digest = hashlib.sha256(logout.token_id.encode()).hexdigest()
    key = f"{bff.settings.prefix}:logout:{digest}"
    seconds = MAX_AGE_SECONDS + 2 * int(bff.settings.jwt_leeway_seconds) + 1
    if await pipeline.submit("SET", key, "1", "NX", "EX", _CLAIM_SECONDS) is None:
        raise LogoutRefused("used before")
    try:
        if logout.session_id is not None:
            await bff.revocations.revoke_provider_session(logout.session_id)
        elif logout.user_id is not None:
            await bff.revocations.revoke_user(logout.user_id, logout.issued_at)
        await pipeline.submit("SET", key, "1", "EX", seconds)
    except BaseException:
        pipeline.submit("DEL", key)  # not awaited: the claim expires
        raise

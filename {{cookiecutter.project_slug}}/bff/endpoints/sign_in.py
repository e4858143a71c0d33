"""Sign-in with a session: `/auth/login`, `/auth/callback`, `/auth/logout` (`docs/sign-in.md`)."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response, status
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from bff.application import Bff
from bff.audit.log import AuditOutcome
from bff.auth.caller import Caller
from bff.auth.oidc.login_flow import LoginFlow, checked_path
from bff.auth.oidc.sign_in import Answer, SignInRefused, SignIns
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.endpoints import backchannel_logout, own_sessions
from bff.endpoints.audit import AuditDep
from bff.endpoints.dependencies import BffDep, CallerDep, address_of
from bff.endpoints.own_sessions import end_sessions
from bff.endpoints.sign_in_pages import continue_page, failed_page
from bff.errors import Code, Problem
from bff.problems import responses
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/auth", tags=["auth"])
router.include_router(backchannel_logout.router)
router.include_router(own_sessions.router)

_REVOKE_SECONDS = 3.0
"""How long a sign-out waits for the provider to revoke the tokens."""


class SignedOut(BaseModel):
    redirect_to: str = Field(description="Where the page must go, to sign out at the provider too")


@router.get(
    "/login",
    summary="Sign in",
    status_code=status.HTTP_303_SEE_OTHER,
    response_class=RedirectResponse,
    responses=responses(404, 422, 429),
)
async def log_in(
    request: Request,
    bff: BffDep,
    return_to: Annotated[str, Query(description="Path of the page after the sign-in")] = "/",
) -> Response:
    """Navigate here, with `location.href = …`: redirects to the identity provider."""
    sign_ins = _sign_ins(bff)
    bff.handshake_limit.check(address_of(request))
    path = checked_path(return_to)
    redirect_uri = _redirect_uri(request, bff)
    flow = LoginFlow.begin(path, redirect_uri, await _session_id(request, bff))
    try:
        url = await sign_ins.authorization_url(flow)
    except Problem as problem:
        return failed_page(problem.status, problem.description, _again(request, path))
    response = RedirectResponse(url, status.HTTP_303_SEE_OTHER)
    secure = bff.session_cookie.is_secure(request)
    sign_ins.flows.set(request, response, flow, secure=secure)
    return response


@router.get("/callback", include_in_schema=False)
async def complete_sign_in(
    request: Request,
    bff: BffDep,
    state: str = "",
    code: str | None = None,
    error: str | None = None,
    iss: str | None = None,
) -> Response:
    """The identity provider sends the browser here."""
    sign_ins, secure = _sign_ins(bff), bff.session_cookie.is_secure(request)
    bff.handshake_limit.check(address_of(request))
    flow = sign_ins.flows.read(request, state, secure=secure)
    if flow is None:
        _record_refused(request, bff, "no such sign-in was begun in this browser")
        text = "This sign-in was not begun here, or took too long."
        return failed_page(status.HTTP_400_BAD_REQUEST, text, _again(request, "/"))
    try:
        key = await _create_session(request, bff, sign_ins, flow, Answer(code, error, iss))
    except (SignInRefused, Problem, *UNAVAILABLE) as failure:
        response: Response = _failed(request, bff, failure, _again(request, flow.return_to))
    else:
        response = continue_page(flow.return_to)
        bff.session_cookie.set(request, response, key)
    sign_ins.flows.delete(response, flow, secure=secure)
    return response


@router.post("/logout", responses=responses(401, 403, 404, 422, 503))
async def log_out(
    request: Request,
    response: Response,
    caller: CallerDep,
    bff: BffDep,
    audit: AuditDep,
    everywhere: Annotated[bool, Query(description="End all sessions of the user")] = False,
) -> SignedOut:
    """End the session, and its connections on every instance. Then go to `redirect_to`."""
    sign_ins, key = _sign_ins(bff), _session_of(caller)
    tokens = await bff.sessions.tokens(key)
    sids = (
        [details.sid for details in await bff.sessions.of_user(caller.user_id)]
        if everywhere
        else []
    )
    with audit.act("sign_out", user=caller.user_id, session=key.sid, everywhere=everywhere):
        await end_sessions(bff, {key.sid, *sids})
    bff.session_cookie.delete(request, response)
    root = _root_path(request)
    if tokens is None:
        return SignedOut(redirect_to=f"{root}/")
    await _revoke(sign_ins, tokens)
    callback = _redirect_uri(request, bff)
    url = await sign_ins.provider.end_session_url(
        tokens.id_token, callback.removesuffix("/auth/callback") + "/"
    )
    if url is None:
        return SignedOut(redirect_to=f"{root}/")
    ticket = await bff.sessions.keep_url(url)
    return SignedOut(redirect_to=f"{root}/auth/logout?ticket={ticket}")


@router.get("/logout", include_in_schema=False)
async def continue_to_provider(request: Request, bff: BffDep, ticket: str) -> Response:
    """Continue a sign-out at the provider. Its URL contains the ID token, which no script of the
    page must see, so the page gets a single-use ticket for it."""
    url = await bff.sessions.take_url(ticket)
    return RedirectResponse(url or f"{_root_path(request)}/", status.HTTP_303_SEE_OTHER)


async def _create_session(
    request: Request, bff: Bff, sign_ins: SignIns, flow: LoginFlow, answer: Answer
) -> SessionKey:
    sign_in = await sign_ins.complete(
        flow,
        answer,
        address=address_of(request),
        user_agent=request.headers.get("user-agent", ""),
    )
    key, superfluous = await bff.sessions.create(sign_in)
    # A logout of the provider that comes now finds the session; one that came before is found here.
    if sign_in.provider_sid and await bff.revocations.is_session_revoked(sign_in.provider_sid):
        await end_sessions(bff, [key.sid])
        raise SignInRefused("the session has ended at the identity provider")
    previous = [flow.previous] if flow.previous else []
    await end_sessions(bff, [*previous, *superfluous])
    bff.audit.record(
        "sign_in",
        actor=sign_in.user_id,
        user=sign_in.user_id,
        session=key.sid,
        address=sign_in.address,
    )
    return key


async def _revoke(sign_ins: SignIns, tokens: Tokens) -> None:
    """The session has ended in any case; tokens that were not revoked expire."""
    try:
        async with asyncio.timeout(_REVOKE_SECONDS):
            if tokens.refresh_token is not None:
                await sign_ins.provider.revoke(tokens.refresh_token, "refresh_token")
            else:
                await sign_ins.provider.revoke(tokens.access_token, "access_token")
    except (Problem, TimeoutError) as error:
        logger.warning("could not revoke tokens of a session", extra={"reason": why(error)})


async def _session_id(request: Request, bff: Bff) -> str | None:
    """The id of the session that the browser has, which ends when a new one begins."""
    value = bff.session_cookie.read(request)
    key = None if value is None else SessionKey.parse(value)
    if key is None or await bff.sessions.load(key) is None:
        return None
    return key.sid


def _sign_ins(bff: Bff) -> SignIns:
    if bff.sign_ins is None:
        raise Problem(Code.NOT_FOUND, "Sign-in is not configured: set OIDC_ISSUER")
    return bff.sign_ins


def _session_of(caller: Caller) -> SessionKey:
    if caller.session is None:
        raise Problem(Code.INVALID_PARAMS, "There is no session: you use a token")
    return caller.session


def _redirect_uri(request: Request, bff: Bff) -> str:
    """The address of the callback: from the settings, else of the host that the browser uses.

    Raises:
        Problem: `forbidden` if that host is not in `ALLOWED_ORIGINS`; it may be forged.
    """
    if bff.settings.oidc_redirect_uri is not None:
        return bff.settings.oidc_redirect_uri
    origin = f"{request.url.scheme}://{request.url.netloc}"
    if origin not in bff.allowed_origins:
        raise Problem(Code.FORBIDDEN, "Set OIDC_REDIRECT_URI, or add this host to ALLOWED_ORIGINS")
    return f"{origin}{_root_path(request)}/auth/callback"


def _again(request: Request, path: str) -> str:
    return f"{_root_path(request)}/auth/login?return_to={quote(path)}"


def _root_path(request: Request) -> str:
    """`ROOT_PATH`, or the `root_path` that the app gave to `FastAPI`."""
    root: str = request.scope.get("root_path", "")
    return root


def _failed(request: Request, bff: Bff, failure: BaseException, again: str) -> Response:
    match failure:
        case Problem(code=Code.FORBIDDEN):
            _record_refused(request, bff, "by the app")
            return failed_page(failure.status, failure.description, again)
        case SignInRefused() | Problem(code=Code.UNAUTHENTICATED):
            _record_refused(request, bff, str(failure))
            return failed_page(status.HTTP_401_UNAUTHORIZED, "The sign-in was refused.", again)
    if not isinstance(failure, Problem):
        logger.warning("sign-in failed: Redis unavailable", extra={"reason": why(failure)})
    unavailable = Problem(Code.SERVICE_UNAVAILABLE, "Signing in is not possible at the moment")
    return failed_page(unavailable.status, unavailable.description, again)


def _record_refused(request: Request, bff: Bff, reason: str) -> None:
    bff.audit.record(
        "sign_in", outcome=AuditOutcome.REFUSED, address=address_of(request), reason=reason
    )

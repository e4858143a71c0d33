"""The development page at `/`, its client and tokens for it. Mounted in development only."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import BaseModel, Field

from bff.auth.tokens import issue
from bff.errors import Code, Problem
from bff.http_headers import NO_STORE
from bff.settings import Settings

_PAGE = Path(__file__).with_name("web")
_CLIENT = Path(__file__).parents[2] / "client"
_INLINE = re.compile(r"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL)
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_FRESH = {"Cache-Control": NO_STORE}


class TokenRequest(BaseModel):
    user: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[Annotated[str, Field(pattern=r"^\S{1,64}$")]], Field(max_length=16)] = []


class DevelopmentToken(BaseModel):
    token: str


def router(settings: Settings) -> APIRouter:
    """Routes of the page, of its files and the client's modules, and of tokens for any user."""
    router = APIRouter(include_in_schema=False)
    html = (_PAGE / "index.html").read_text(encoding="utf-8")
    if settings.oidc_issuer is not None:
        html = html.replace("<body>", "<body data-sign-in>")
    headers = _FRESH | {"Content-Security-Policy": page_policy(html, own_styles=["'self'"])}

    @router.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    files = {path.name: path for path in _PAGE.iterdir() if path.suffix in _TYPES}

    @router.get("/development/{name}")
    def file(name: str) -> FileResponse:
        """A script of the page, or its style.

        Raises:
            Problem: `not_found`.
        """
        if name not in files:
            raise Problem(Code.NOT_FOUND, "The page has no such file")
        path = files[name]
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=_FRESH)

    scripts = {path.relative_to(_CLIENT).as_posix(): path for path in _CLIENT.rglob("*.js")}

    @router.get("/bff-client/{name:path}")
    def client(name: str) -> FileResponse:
        """A module of the client.

        Raises:
            Problem: `not_found` if there was no such module when the server started.
        """
        if name not in scripts:
            raise Problem(Code.NOT_FOUND, "The client has no such module")
        return FileResponse(scripts[name], media_type="text/javascript", headers=_FRESH)

    hosts = {*_LOCAL_HOSTS, *(urlsplit(origin).hostname for origin in settings.allowed_origins)}

    @router.post("/dev/token")
    def token(wanted: TokenRequest, request: Request) -> DevelopmentToken:
        """Issue a token.

        A page of another site can let its name point to this machine, and then send requests here
        (DNS rebinding). It cannot send another `Host` than its own.

        Raises:
            Problem: `forbidden` if the `Host` is neither this machine nor in `ALLOWED_ORIGINS`;
                `not_found` if `JWT_SECRET` is not set.
        """
        if request.url.hostname not in hosts:
            raise Problem(Code.FORBIDDEN, "Use http://localhost, or add it to ALLOWED_ORIGINS")
        try:
            return DevelopmentToken(token=issue(settings, wanted.user, wanted.scopes))
        except ValueError as error:
            raise Problem(Code.NOT_FOUND, str(error)) from None

    return router


def page_policy(html: str, *, own_styles: Sequence[str] = ()) -> str:
    """A policy that allows the inline style and script by their hashes (CSP Level 3, section
    6.7.3.3). `own_styles`: what the page loads or makes beyond that."""
    allowed: dict[str, list[str]] = {"script": ["'self'"], "style": [*own_styles]}
    for tag, text in _INLINE.findall(html):
        if not text:
            continue
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[tag].append(f"'sha256-{digest}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(allowed['script'])}",
            f"style-src {' '.join(allowed['style'])}",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )

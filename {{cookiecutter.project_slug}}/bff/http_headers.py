"""Headers of every HTTP response, and what Starlette's router gets wrong about paths."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_STORE: Final = "no-store"
STRICT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
"""The policy of responses that are not pages (CSP Level 3): if a browser showed one all the same,
nothing in it would run."""
ALWAYS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
SAFE: Final = ALWAYS | {"Cache-Control": NO_STORE, "Content-Security-Policy": STRICT_POLICY}
"""The headers of a response with a user's data."""
SAFE_RAW: Final = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]
"""`SAFE`, as ASGI has headers."""

_SLASH_REDIRECT: Final = 307
_ALWAYS: Final = [(name.lower().encode(), value.encode()) for name, value in ALWAYS.items()]
_NO_STORE: Final = (b"cache-control", NO_STORE.encode())
_POLICY: Final = (b"content-security-policy", STRICT_POLICY.encode())
_CLOSE: Final = (b"connection", b"close")
_CACHING: Final = {b"cache-control", b"etag", b"last-modified"}


def install(
    app: FastAPI, allowed_origins: Collection[str], is_draining: Callable[[], bool]
) -> None:
    """Add safe headers, and CORS for these origins, to every response of an app.

    While the instance drains, each response also ends its connection (`Connection: close`, RFC
    9112, section 9.6). So a proxy keeps no idle connection that the instance is about to close.

    This is outside of all its middleware: FastAPI and Starlette make some responses there (413,
    500), and a page can read no response without the headers of CORS.
    """
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: ResponseHeaders(  # type: ignore[method-assign]
        CORSMiddleware(
            build(),
            allow_origins=list(allowed_origins),
            allow_credentials=True,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After"],
        ),
        is_draining,
    )


class ResponseHeaders:
    """ASGI middleware. A WebSocket passes through it unwrapped.

    Headers that a route sets are kept. A response that names neither `Cache-Control` nor a
    validator (`ETag`, `Last-Modified`) must not be stored: it may have been made for one user.
    """

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["path"].endswith("\n"):
            # `$` in Starlette's patterns matches before a final newline too.
            scope["path"] = "/%0A"
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(message, scope)
                if self._is_draining() and scope["http_version"].startswith("1"):
                    message["headers"].append(_CLOSE)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _complete(message: Message, scope: Scope) -> None:
    headers = list(message["headers"])
    given = dict(headers)
    headers += [header for header in _ALWAYS if header[0] not in given]
    if not given.keys() & _CACHING:
        headers.append(_NO_STORE)
    if b"content-security-policy" not in given and not given.get(b"content-type", b"").startswith(
        b"text/html"
    ):
        headers.append(_POLICY)
    if message["status"] == _SLASH_REDIRECT and (location := given.get(b"location")):
        headers.remove((b"location", location))
        relative = _without_host(location.decode("latin-1"), scope)
        headers.append((b"location", relative.encode("latin-1")))
    message["headers"] = headers


def _without_host(location: str, scope: Scope) -> str:
    """The redirect for a missing or superfluous slash names the host that the client sent, or the
    address of this server. Without it, the redirect cannot lead elsewhere. Other redirects stay."""
    parts = urlsplit(location)
    hosts = {value.decode("latin-1") for name, value in scope["headers"] if name == b"host"}
    if server := scope.get("server"):
        hosts |= {server[0], f"{server[0]}:{server[1]}", f"[{server[0]}]:{server[1]}"}
    if parts.scheme != scope.get("scheme") or parts.netloc not in hosts:
        return location
    path, root = parts.path, scope.get("root_path", "")
    if path.startswith("//"):
        path = "/%2F" + path[2:]
    if root and not path.startswith(f"{root}/"):
        path = root + path  # a proxy has removed it
    return urlunsplit(("", "", path, parts.query, ""))

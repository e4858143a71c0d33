"""Gives an app its documents: the contract, AsyncAPI, and a complete OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute

from bff.auth import session_cookie
from bff.contract import openapi
from bff.contract.asyncapi import asyncapi
from bff.contract.contract import Contract, contract_of
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings


class Documents:
    """The documents of an app. Each is made at its first use, because the app's routes are added
    after `install`."""

    def __init__(self, app: FastAPI, realtime: RealtimeRouter, settings: Settings) -> None:
        self._app = app
        self._realtime = realtime
        self._settings = settings
        self._contract: Contract | None = None
        self._asyncapi: dict[str, Any] | None = None
        self._generate = app.openapi
        self._completed: dict[str, Any] | None = None

    def install(self) -> None:
        """Complete the app's OpenAPI, and serve `/asyncapi.json` where `/docs` is served."""
        self._app.openapi = self.openapi  # type: ignore[method-assign]
        if self._settings.serves_api_docs:
            self._app.add_route("/asyncapi.json", self._serve_asyncapi, include_in_schema=False)

    def contract(self) -> Contract:
        """What the app offers."""
        if self._contract is None:
            self._contract = contract_of(
                self._realtime,
                title=self._app.title,
                version=self._app.version,
                socket_path=_socket_path(self._app),
            )
        return self._contract

    def asyncapi(self) -> dict[str, Any]:
        """The AsyncAPI document."""
        if self._asyncapi is None:
            self._asyncapi = asyncapi(self.contract())
        return self._asyncapi

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = self._generate()
        if document is not self._completed:
            settings = self._settings
            cookie = session_cookie.NAME if settings.oidc_issuer else settings.auth_cookie
            openapi.complete(document, self.contract(), auth_cookie=cookie)
            self._completed = document
        return document

    async def _serve_asyncapi(self, _: Request) -> JSONResponse:
        return JSONResponse(self.asyncapi())


def _socket_path(app: FastAPI) -> str:
    """The path of the first WebSocket route; `/ws` without one."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, WebSocketRoute) and route.path:
            return route.path
    return "/ws"

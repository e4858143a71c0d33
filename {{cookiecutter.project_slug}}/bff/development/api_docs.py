"""The description of the API at `/docs`, without scripts from other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse

from bff.development.page import page_policy
from bff.settings import Settings

_FILES: Final = Path(fastapi_offline.__file__).with_name("static")
_SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"
_STYLES: Final = ("'self'", "'unsafe-inline'")
"""Swagger UI sets styles from its script. Styles run nothing."""


def install(app: FastAPI, settings: Settings) -> None:
    """Replace the pages that FastAPI has made, which load their scripts from another host.

    `/redoc` goes: it is a second page with the same contents. With `API_DOCS=false`, as in
    production, `/docs` and `/openapi.json` go too. Paths are those of `FastAPI(docs_url=...)`.
    """
    pages = {app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    docs = app.docs_url if app.openapi_url and settings.serves_api_docs else None
    if not settings.serves_api_docs:
        pages.add(app.openapi_url)
        app.openapi_url = None
    app.routes[:] = [route for route in app.routes if getattr(route, "path", None) not in pages]
    app.docs_url, app.redoc_url = docs, None
    if docs is not None:
        _add_page(app, docs)


def _add_page(app: FastAPI, docs: str) -> None:
    async def page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        files = root + docs.rstrip("/")
        made = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title}: API",
            swagger_js_url=f"{files}/{_SCRIPT}",
            swagger_css_url=f"{files}/{_STYLE}",
            swagger_favicon_url=f"{files}/{_ICON}",
            swagger_ui_parameters=app.swagger_ui_parameters,
        )
        policy = page_policy(bytes(made.body).decode(), own_styles=_STYLES)
        made.headers["Content-Security-Policy"] = policy
        return made

    async def file(request: Request) -> FileResponse:
        return FileResponse(_FILES / request.url.path.rpartition("/")[2])

    app.add_route(docs, page, include_in_schema=False)
    for name in (_SCRIPT, _STYLE, _ICON):
        app.add_route(f"{docs.rstrip('/')}/{name}", file, include_in_schema=False)

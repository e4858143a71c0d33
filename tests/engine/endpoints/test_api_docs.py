"""The pages of the HTTP API: with the BFF's own files, or not at all."""

from __future__ import annotations

import httpx2
import pytest
from bff import Bff
from bff.settings import Settings
from fastapi import FastAPI

from tests.engine.echo import create_app


def browse(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost")


async def status(app: FastAPI, *paths: str) -> list[int]:
    async with browse(app) as http:
        return [(await http.get(path)).status_code for path in paths]


@pytest.mark.parametrize("is_offered", [True, False])
async def test_the_pages_are_offered_or_not(settings: Settings, is_offered: bool) -> None:
    app = create_app(settings.model_copy(update={"api_docs": is_offered}))
    found = 200 if is_offered else 404
    paths = ("/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect")
    assert await status(app, *paths) == [found, found, 404, 404]
    offered = ("/docs", "/openapi.json") if is_offered else (None, None)
    assert (app.docs_url, app.openapi_url) == offered
    assert app.redoc_url is None


async def test_the_page_loads_its_files_from_this_host(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_docs": True}))
    async with browse(app) as http:
        page = await http.get("/docs")
        files = [part.split('"')[0] for part in page.text.split('="/docs/')[1:]]
        assert len(files) == 3
        for name in files:
            assert (await http.get(f"/docs/{name}")).status_code == 200
    assert "https://" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert not [path for path in app.openapi()["paths"] if path.startswith("/docs")]


async def test_an_app_without_a_document_has_no_page(settings: Settings) -> None:
    bff = Bff(settings.model_copy(update={"api_docs": True}))
    app = FastAPI(openapi_url=None, lifespan=bff.lifespan)
    bff.install(app)
    assert await status(app, "/docs", "/openapi.json") == [404, 404]

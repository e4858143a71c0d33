"""Every HTTP error is `application/problem+json`, without internals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
import pytest
from bff import problems
from bff.errors import Code, Outcome, Problem
from fastapi import FastAPI, HTTPException, Path
from pydantic import BaseModel
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError


class Thing(BaseModel):
    name: str
    size: int

    model_config = {"extra": "forbid"}


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    problems.install(app)

    @app.post("/things", responses=problems.responses(422))
    async def create(thing: Thing) -> Thing:
        return thing

    @app.get("/problem/{code}")
    async def problem(code: Annotated[Code, Path()]) -> None:
        raise Problem(code, "In words", outcome=Outcome.DONE)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("internal-secret")

    @app.get("/redis")
    @app.post("/redis")
    async def redis() -> None:
        raise RedisConnectionError("internal-secret")

    @app.get("/database")
    async def database() -> None:
        raise OperationalError("SELECT internal-secret", {}, OSError("internal-secret"))

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://bff") as client:
        yield client


@pytest.mark.parametrize("code", list(Code))
async def test_a_problem_keeps_its_code_and_status(http: httpx2.AsyncClient, code: Code) -> None:
    response = await http.get(f"/problem/{code}")
    body = response.json()
    assert response.status_code == body["status"] == code.status
    assert response.headers["content-type"] == "application/problem+json"
    assert body["code"] == code
    assert body["detail"] == "In words"
    assert body["outcome"] == "done"
    assert body["retryable"] is False


async def test_invalid_input_is_named_but_not_repeated(http: httpx2.AsyncClient) -> None:
    response = await http.post("/things", json={"name": "n", "size": "secret-of-the-caller"})
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_params"
    assert response.json()["detail"].startswith("body.size: ")
    assert "secret-of-the-caller" not in response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"name": "n", "size": 1, "\\ud800": 1}']
)
async def test_broken_json_is_a_problem_too(http: httpx2.AsyncClient, body: bytes) -> None:
    response = await http.post(
        "/things", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "invalid_params"


async def test_an_http_exception_keeps_its_status_and_headers(http: httpx2.AsyncClient) -> None:
    response = await http.get("/teapot")
    assert response.status_code == response.json()["status"] == 418
    assert response.json()["detail"] == "short and stout"
    assert response.json()["title"] == "I'm a Teapot"
    assert response.headers["x-spout"] == "yes"


async def test_unknown_routes_and_methods_are_problems(http: httpx2.AsyncClient) -> None:
    missing = await http.get("/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    wrong = await http.delete("/things")
    assert wrong.status_code == wrong.json()["status"] == 405
    assert wrong.json()["code"] == "method_not_allowed"
    assert wrong.json()["type"] == "urn:problem:method_not_allowed"
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.headers["allow"] == "POST"


async def test_a_bug_reveals_no_internals(http: httpx2.AsyncClient) -> None:
    response = await http.get("/bug")
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert response.json()["outcome"] == "unknown"
    assert "internal-secret" not in response.text


@pytest.mark.parametrize("path", ["/redis", "/database"])
async def test_an_unavailable_store_reveals_no_internals(
    http: httpx2.AsyncClient, path: str
) -> None:
    response = await http.get(path)
    assert response.status_code == 503
    assert response.json()["code"] == "service_unavailable"
    assert "internal-secret" not in response.text


async def test_only_safe_methods_are_retryable(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/redis")).json()["retryable"] is True
    assert (await http.post("/redis")).json()["retryable"] is False


async def test_the_openapi_document_describes_problems(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    content = document["paths"]["/things"]["post"]["responses"]["422"]["content"]
    assert list(content) == ["application/problem+json"]
    described = content["application/problem+json"]
    assert described["schema"]["$ref"] == "#/components/schemas/ProblemDetails"
    assert "invalid_params" in described["examples"]

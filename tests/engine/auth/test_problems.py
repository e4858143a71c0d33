"""Every HTTP error is `application/problem+json`, without internals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import pytest
from bff import problems
from bff.connections.close_codes import CloseCode
from bff.errors import Code, Outcome, Problem
from fastapi import FastAPI, HTTPException, Path, Request, Response, WebSocket
from pydantic import BaseModel
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError


class Thing(BaseModel):
    name: str
    size: int

    model_config = {"extra": "forbid"}


MAX_BODY = 200_000


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    app.max_body_size = MAX_BODY
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

    @app.get("/limited/{seconds}")
    async def limited(seconds: float) -> None:
        raise Problem(Code.RATE_LIMITED, retry_after_seconds=seconds)

    @app.get("/moved")
    async def moved() -> None:
        raise HTTPException(304, headers={"ETag": "1"})

    @app.get("/paid/{status}")
    async def paid(status: int) -> None:
        raise HTTPException(status)

    @app.post("/read")
    async def read(request: Request) -> Response:
        await request.body()
        return Response("kept", int(request.query_params["status"]))

    @app.websocket("/refused")
    async def refused(websocket: WebSocket) -> None:
        raise problems.SocketRefused(CloseCode.NOT_AUTHENTICATED, "Sign in first")

    @app.websocket("/forbidden")
    async def forbidden(websocket: WebSocket) -> None:
        raise Problem(Code.FORBIDDEN)

    @app.websocket("/later")
    async def later(websocket: WebSocket) -> None:
        await websocket.accept()
        raise Problem(Code.FORBIDDEN)

    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
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
    headers = {"Content-Type": "application/json"}
    broken = await http.post("/things", content=b"{", headers=headers)
    assert broken.json()["detail"].startswith("body: ")
    unknown = await http.post("/things", json={"name": "n", "size": 1, "x" * 1000: 1})
    assert len(unknown.json()["detail"]) == 300


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


async def test_a_body_that_is_too_large_is_a_problem(http: httpx2.AsyncClient) -> None:
    largest = await http.post("/read", params={"status": 200}, content=bytes(MAX_BODY))
    assert (largest.status_code, largest.text) == (200, "kept")
    larger = await http.post("/read", params={"status": 200}, content=bytes(MAX_BODY + 1))
    assert larger.status_code == larger.json()["status"] == 413
    assert larger.headers["content-type"] == "application/problem+json"
    assert larger.json()["code"] == "too_large"
    own = await http.get("/problem/too_large")
    assert own.json()["detail"] == "In words", "a problem that is one already is not replaced"


async def test_the_headers_say_when_to_try_again_and_who_has_to_sign_in(
    http: httpx2.AsyncClient,
) -> None:
    for seconds, header, milliseconds in ((0.25, "1", 250), (2, "2", 2000), (0.0001, "1", 1)):
        limited = await http.get(f"/limited/{seconds}")
        assert limited.headers["retry-after"] == header
        assert limited.json()["retry_after_ms"] == milliseconds
        assert limited.json()["retryable"] is True
    for code in Code:
        other = await http.get(f"/problem/{code}")
        assert "retry-after" not in other.headers
        assert "retry_after_ms" not in other.json()
        asked = "Bearer" if code is Code.UNAUTHENTICATED else None
        assert other.headers.get("www-authenticate") == asked


async def test_an_http_exception_gets_the_code_that_is_closest(http: httpx2.AsyncClient) -> None:
    for status, code in (
        (400, "invalid_params"),
        (402, "invalid_params"),
        (404, "not_found"),
        (451, "invalid_params"),
        (500, "internal"),
        (501, "internal"),
        (507, "internal"),
    ):
        response = await http.get(f"/paid/{status}")
        assert response.status_code == response.json()["status"] == status
        assert response.json()["code"] == code
        is_known = status in (404, 500)
        assert response.json()["type"] == (f"urn:problem:{code}" if is_known else "about:blank")
    moved = await http.get("/moved")
    assert (moved.status_code, moved.content, moved.headers["etag"]) == (304, b"", "1")


async def handshake(app: FastAPI, path: str, *extensions: str) -> list[dict[str, Any]]:
    """What the server is told to send."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": path,
        "headers": [],
        "query_string": b"",
        "subprotocols": ["bff.v1"],
        "extensions": {name: {} for name in extensions},
    }
    await app(scope, receive, send)
    return sent


async def test_a_refused_socket_says_why_as_far_as_the_server_can(app: FastAPI) -> None:
    denial = "websocket.http.response"
    start, body = await handshake(app, "/forbidden", denial)
    assert (start["type"], start["status"]) == (f"{denial}.start", 403)
    assert json.loads(body["body"])["code"] == "forbidden"
    (closed,) = await handshake(app, "/forbidden")
    assert closed["type"] == "websocket.close"
    accepted, closed = await handshake(app, "/refused", denial)
    assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "bff.v1")
    assert (closed["code"], closed["reason"]) == (4500, "Sign in first")
    accepted, closed = await handshake(app, "/later", denial)
    assert (accepted["type"], closed["type"]) == ("websocket.accept", "websocket.close")
    assert closed["code"] == 4006

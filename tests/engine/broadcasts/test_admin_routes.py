"""The admin endpoints and their scope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from app.routes import admin
from bff import problems
from bff.audit.log import AuditLog
from bff.auth.authenticator import Authenticator
from bff.auth.sessions import SessionStore
from bff.auth.tickets import Tickets
from bff.auth.tokens import TokenVerifier, issue
from bff.broadcasts.service import BroadcastService
from bff.cluster.index import ConnectionDetails
from bff.cluster.lease import InstanceFacts
from bff.realtime.limits import TokenBuckets
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from fastapi import FastAPI

from tests.engine.broadcasts.conftest import RecordingMessenger
from tests.engine.doubles import NothingRevoked

CONNECTION = ConnectionDetails("i1.abc", "i1", 1_700_000_000.0, "192.0.2.1", "browser", "s-1")
INSTANCES = [InstanceFacts("i1", "host", 0.0, 3, 2), InstanceFacts("i2", "host", 0.0, 4, 4)]
ROUTES = [
    ("POST", "/admin/broadcasts"),
    ("GET", "/admin/broadcasts"),
    ("GET", "/admin/broadcasts/x"),
    ("GET", "/admin/users/alice/connections"),
    ("DELETE", "/admin/users/alice/connections"),
    ("POST", "/admin/users/alice/revoke"),
    ("POST", "/admin/sessions/x/revoke"),
    ("POST", "/admin/tokens/x/revoke"),
    ("GET", "/admin/audit"),
    ("GET", "/admin/stats"),
]
NAMES = {
    "/broadcasts/x": "/broadcasts/{broadcast_id}",
    "/users/alice": "/users/{user_id}",
    "/sessions/x": "/sessions/{session_id}",
    "/tokens/x": "/tokens/{token_id}",
}


class StandInIndex:
    def __init__(self) -> None:
        self.requested: list[str] = []

    async def connections_of(self, user_id: str) -> list[ConnectionDetails]:
        self.requested.append(user_id)
        return [CONNECTION]

    async def instances(self) -> list[InstanceFacts]:
        return INSTANCES


class StandInRevocations:
    def __init__(self) -> None:
        self.revoked: list[tuple[str, str]] = []

    async def revoke_user(self, user_id: str) -> None:
        self.revoked.append(("user", user_id))

    async def revoke_session(self, session_id: str) -> None:
        self.revoked.append(("session", session_id))

    async def revoke_token(self, token_id: str) -> None:
        self.revoked.append(("token", token_id))


@pytest.fixture
def app(
    service: BroadcastService,
    messenger: RecordingMessenger,
    settings: Settings,
    redis: RedisClient,
    metrics: Metrics,
) -> FastAPI:
    app = FastAPI()
    app.state.bff = SimpleNamespace(
        settings=settings,
        broadcasts=service,
        messenger=messenger,
        index=StandInIndex(),
        revocations=StandInRevocations(),
        audit=AuditLog(service._database, settings, metrics),
        allowances=TokenBuckets(per_second=1000, burst=1000),
        authenticator=Authenticator(
            settings,
            TokenVerifier(settings),
            Tickets(AutoPipeline(redis), settings),
            SessionStore(AutoPipeline(redis), settings),
            NothingRevoked(),
        ),
    )
    problems.install(app)
    app.include_router(admin.router)
    return app


@pytest.fixture
async def http(app: FastAPI, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the administrator carol."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {issue(settings, 'carol', ['admin'])}"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://bff", headers=headers
    ) as client:
        yield client


def new_broadcast(**changes: Any) -> dict[str, Any]:
    broadcast: dict[str, Any] = {"audience": "all", "topic": "notice", "event": {"text": "hi"}}
    return broadcast | changes


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_needs_the_scope_admin(
    http: httpx2.AsyncClient, settings: Settings, method: str, path: str
) -> None:
    for headers, status in (
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer x"}, 401),
        ({"Authorization": issue(settings, "alice", ["orders"])}, 403),
        ({"Authorization": issue(settings, "alice", ["administrator", "ADMIN"])}, 403),
    ):
        response = await http.request(method, path, headers=headers)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"


def test_the_list_of_routes_is_complete(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    offered = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    listed = set()
    for method, path in ROUTES:
        for example, template in NAMES.items():
            path = path.replace(example, template)
        listed.add((method, path))
    assert offered == listed
    address = app.url_path_for("read_connections", user_id="realm/alice")
    assert address == "/admin/users/realm/alice/connections"


async def test_a_broadcast_is_created_and_can_be_read(
    http: httpx2.AsyncClient, messenger: RecordingMessenger
) -> None:
    created = await http.post("/admin/broadcasts", json=new_broadcast(expires_at=in_days(1)))
    assert created.status_code == 201
    body = created.json()
    assert body["created_by"] == "carol"
    assert body["addressed"] == 5
    assert body["message_ids"] == ["all/e/1"]
    event = {"text": "hi", "broadcast_id": body["id"]}
    assert messenger.sent == [("all", None, "notice", event)]
    assert (await http.get(created.headers["location"])).json() == body
    assert (await http.get("/admin/broadcasts")).json() == [body]


async def test_to_users_and_to_a_connection(
    http: httpx2.AsyncClient, messenger: RecordingMessenger
) -> None:
    to_users = new_broadcast(audience="users", user_ids=["alice", "realm/böb 2"])
    assert (await http.post("/admin/broadcasts", json=to_users)).status_code == 201
    to_one = new_broadcast(audience="connection", connection_id="i1.abc-_")
    assert (await http.post("/admin/broadcasts", json=to_one)).status_code == 201
    assert [sent[:2] for sent in messenger.sent] == [
        ("users", ["alice", "realm/böb 2"]),
        ("connection", "i1.abc-_"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"audience": "everybody"},
        {"audience": "users"},
        {"audience": "users", "user_ids": []},
        {"audience": "users", "user_ids": [""]},
        {"audience": "users", "user_ids": ["a\nb"]},
        {"audience": "users", "user_ids": ["x" * 129]},
        {"audience": "users", "user_ids": ["a"] * 1001},
        {"audience": "users", "user_ids": "alice"},
        {"audience": "users", "user_ids": ["a"], "connection_id": "i1.abc"},
        {"audience": "all", "user_ids": ["a"]},
        {"audience": "connection"},
        {"audience": "connection", "connection_id": "i1\nall"},
        {"audience": "connection", "connection_id": "i1.abc", "expires_at": in_days(1)},
        {"topic": ""},
        {"topic": "a\x00b"},
        {"topic": "x" * 256},
        {"event": "text"},
        {"event": ["text"]},
        {"event": None},
        {"event": {"big": "x" * 70_000}},
        {"event": {"number": 2**70}},
        {"expires_at": in_days(-1)},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"unknown": 1},
    ],
    ids=lambda changes: repr(changes)[:60],
)
async def test_invalid_broadcasts_are_refused(
    http: httpx2.AsyncClient, messenger: RecordingMessenger, changes: dict[str, Any]
) -> None:
    response = await http.post("/admin/broadcasts", json=new_broadcast(**changes))
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_params"
    assert messenger.sent == []
    assert (await http.get("/admin/broadcasts")).json() == []


@pytest.mark.parametrize(
    "event",
    ['{"a":' * 40 + "1" + "}" * 40, '{"a": "\\ud800"}', '{"\\ud800": 1}'],
    ids=["deep", "lone surrogate", "lone surrogate as key"],
)
async def test_json_that_frames_cannot_hold_is_refused(
    http: httpx2.AsyncClient, event: str
) -> None:
    body = f'{{"audience": "all", "topic": "t", "event": {event}}}'
    headers = {"Content-Type": "application/json"}
    response = await http.post("/admin/broadcasts", content=body, headers=headers)
    assert response.status_code == 422


async def test_the_stored_event_is_the_sent_event(
    http: httpx2.AsyncClient, messenger: RecordingMessenger
) -> None:
    body = '{"audience": "all", "topic": "t", "event": {"a": null, "b": "\\u0000"}}'
    headers = {"Content-Type": "application/json"}
    response = await http.post("/admin/broadcasts", content=body, headers=headers)
    assert response.json()["event"] == {"a": None, "b": "\x00"}
    assert messenger.sent[0][3]["a"] is None
    body = body.replace("null", "NaN")  # not JSON
    response = await http.post("/admin/broadcasts", content=body, headers=headers)
    assert response.status_code == 422


async def test_pages(http: httpx2.AsyncClient) -> None:
    made = [
        (await http.post("/admin/broadcasts", json=new_broadcast())).json()["id"] for _ in range(3)
    ]
    first = (await http.get("/admin/broadcasts", params={"limit": 2})).json()
    assert [broadcast["id"] for broadcast in first] == [made[2], made[1]]
    rest = (await http.get("/admin/broadcasts", params={"before": made[1]})).json()
    assert [broadcast["id"] for broadcast in rest] == [made[0]]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/broadcasts/none", 404),
        ("/admin/broadcasts?before=none", 404),
        ("/admin/broadcasts?limit=0", 422),
        ("/admin/broadcasts?limit=201", 422),
        (f"/admin/broadcasts/{'x' * 37}", 422),
        ("/admin/broadcasts/%00", 404),
        (f"/admin/users/{'x' * 129}/connections", 422),
        ("/admin/users/a%0Ab/connections", 422),
    ],
)
async def test_unknown_and_invalid_resources(
    http: httpx2.AsyncClient, path: str, status: int
) -> None:
    assert (await http.get(path)).status_code == status


@pytest.mark.parametrize("user_id", ["alice", "auth0|1", "realm/alice", "ä b"])
async def test_connections_of_a_user_are_listed_closed_and_revoked(
    http: httpx2.AsyncClient, app: FastAPI, messenger: RecordingMessenger, user_id: str
) -> None:
    path = f"/admin/users/{user_id.replace('/', '%2F')}/connections"
    (connection,) = (await http.get(path)).json()
    assert connection["connection_id"] == "i1.abc"
    assert connection["address"] == "192.0.2.1"
    assert app.state.bff.index.requested == [user_id]
    response = await http.delete(path)
    assert (response.status_code, response.json()) == (202, {"addressed": 2})
    assert messenger.closed == [user_id]
    quoted = user_id.replace("/", "%2F")
    for kind in ("users", "sessions", "tokens"):
        assert (await http.post(f"/admin/{kind}/{quoted}/revoke")).status_code == 204
    named = [("user", user_id), ("session", user_id), ("token", user_id)]
    assert app.state.bff.revocations.revoked == named


async def test_stats_count_all_instances(http: httpx2.AsyncClient) -> None:
    stats = (await http.get("/admin/stats")).json()
    assert stats["connections"] == 7
    assert [instance["instance"] for instance in stats["instances"]] == ["i1", "i2"]


async def test_the_openapi_document_is_complete(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    for operation in operations:
        assert operation["security"] == [{"token": []}]
        assert {"401", "403", "422", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status == "204":
                assert "content" not in response
                continue
            expected = "application/json" if status < "300" else "application/problem+json"
            assert list(response["content"]) == [expected]
    schemas = document["components"]["schemas"]
    assert schemas["NewBroadcast"]["examples"]
    assert "HTTPValidationError" not in schemas
    admin.NewBroadcast.model_validate(schemas["NewBroadcast"]["examples"][0])
    admin.StoredBroadcast.model_validate(schemas["StoredBroadcast"]["examples"][0])

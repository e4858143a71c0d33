"""The engine's FastAPI routers and dependencies, for the app to include and use."""

from bff.audit.log import AuditOutcome
from bff.endpoints import admin, rpc, services, sign_in, sse, tickets
from bff.endpoints.audit import Audit, AuditDep
from bff.endpoints.dependencies import (
    AccessTokenDep,
    AdminDep,
    BffDep,
    BroadcastsDep,
    CallerDep,
    DatabaseDep,
    IndexDep,
    MeshDep,
    MessengerDep,
    MetricsDep,
    PresenceDep,
    provided,
    requires,
)
from bff.endpoints.health import Liveness, Readiness, liveness, metrics, readiness
from bff.endpoints.json_body import JsonRoute
from bff.endpoints.names import ConnectionId, Topic, UserIds
from bff.endpoints.websocket import serve as serve_websocket
from bff.names import UserId
from bff.problems import responses

__all__ = [
    "AccessTokenDep",
    "AdminDep",
    "Audit",
    "AuditDep",
    "AuditOutcome",
    "BffDep",
    "BroadcastsDep",
    "CallerDep",
    "ConnectionId",
    "DatabaseDep",
    "IndexDep",
    "JsonRoute",
    "Liveness",
    "MeshDep",
    "MessengerDep",
    "MetricsDep",
    "PresenceDep",
    "Readiness",
    "Topic",
    "UserId",
    "UserIds",
    "admin",
    "liveness",
    "metrics",
    "provided",
    "readiness",
    "requires",
    "responses",
    "rpc",
    "serve_websocket",
    "services",
    "sign_in",
    "sse",
    "tickets",
]

"""The engine of a backend-for-frontend: browsers on sockets, services on a mesh, Redis in between.

What an app imports is here, in `bff.endpoints` and in `bff.testing`. Everything below may change
with any update.
"""

from bff import codec
from bff.application import Bff
from bff.auth.access_token import AccessToken
from bff.auth.caller import Caller
from bff.broadcasts.service import BroadcastService
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence, presence_topic
from bff.connections.close_codes import CloseCode
from bff.connections.messages import Call
from bff.db.alembic_env import run_revisions
from bff.db.database import Database
from bff.db.tables import NAMING_CONVENTION, Audience, UtcDateTime
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh, run_service
from bff.mesh.events import MeshEvent, RetryEvent
from bff.mesh.memory import MemoryBroker
from bff.mesh.messages import Context, MeshRequest
from bff.mesh.service import Publish, Service
from bff.realtime.declarations import Topic
from bff.realtime.router import RealtimeRouter
from bff.settings import MeshSettings, Settings
from bff.telemetry.metrics import Metrics
from bff.version import __version__

__all__ = [
    "NAMING_CONVENTION",
    "AccessToken",
    "Audience",
    "Bff",
    "BroadcastService",
    "Call",
    "Caller",
    "CloseCode",
    "Code",
    "Context",
    "Database",
    "MemoryBroker",
    "MeshClient",
    "MeshEvent",
    "MeshRequest",
    "MeshSettings",
    "Messenger",
    "Metrics",
    "Outcome",
    "Presence",
    "Problem",
    "Publish",
    "RealtimeRouter",
    "RetryEvent",
    "Service",
    "Settings",
    "Topic",
    "UtcDateTime",
    "__version__",
    "codec",
    "connect_mesh",
    "presence_topic",
    "run_revisions",
    "run_service",
]

"""The parts of the engine that every handler can take as a parameter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bff.auth.access_token import AccessToken
from bff.auth.caller import Caller
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.db.database import Database
from bff.mesh.client import MeshClient
from bff.realtime.handlers import Arguments
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

INJECTABLE = frozenset({Messenger, MeshClient, Presence, Database, Settings, Metrics})


@dataclass(frozen=True, slots=True)
class HandlerDependencies:
    """The objects that handlers get for the types in `INJECTABLE`."""

    messenger: Messenger
    mesh: MeshClient
    presence: Presence
    database: Database
    settings: Settings
    metrics: Metrics
    access_token: Callable[[Caller], Awaitable[AccessToken]]
    """The access token of a caller: called only for handlers that take an `AccessToken`."""
    provided: Mapping[type[Any], Any]
    """The resources of `Bff(provide=...)`; filled when the app starts."""

    @property
    def types(self) -> frozenset[type]:
        """The types that handlers can take without `provide`, with the app's `Settings` class."""
        return INJECTABLE | {type(self.settings)}

    def arguments(self, call: dict[type, Any]) -> Arguments:
        """All values for one call, by type. Those in `call` override the shared ones."""
        return {
            Messenger: self.messenger,
            MeshClient: self.mesh,
            Presence: self.presence,
            Database: self.database,
            Settings: self.settings,
            type(self.settings): self.settings,
            Metrics: self.metrics,
            AccessToken: self.access_token,
            **self.provided,
            **call,
        }

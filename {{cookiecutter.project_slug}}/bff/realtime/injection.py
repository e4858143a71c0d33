"""What every handler may ask for by type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """The parts of the app that handlers use."""

    messenger: Messenger
    mesh: MeshClient
    presence: Presence
    database: Database
    settings: Settings
    metrics: Metrics
    provided: Mapping[type[Any], Any]
    """The app's own resources, there once it has started."""

    @property
    def types(self) -> frozenset[type]:
        """What is there without being provided; the app's own class of settings too."""
        return INJECTABLE | {type(self.settings)}

    def arguments(self, call: dict[type, Any]) -> Arguments:
        """By type. What the call brings itself comes before what is the same for all."""
        return {
            Messenger: self.messenger,
            MeshClient: self.mesh,
            Presence: self.presence,
            Database: self.database,
            Settings: self.settings,
            type(self.settings): self.settings,
            Metrics: self.metrics,
            **self.provided,
            **call,
        }

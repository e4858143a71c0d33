"""What every handler may ask for, whoever calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.cluster.messenger import Messenger
from app.cluster.presence import Presence
from app.db.database import Database
from app.mesh.client import MeshClient
from app.realtime.handlers import Arguments
from app.settings import Settings

MAY_ASK = frozenset({Messenger, MeshClient, Presence, Database, Settings})


@dataclass(frozen=True, slots=True)
class AtHand:
    """The parts of the app that handlers use."""

    messenger: Messenger
    mesh: MeshClient
    presence: Presence
    database: Database
    settings: Settings

    def arguments(self, call: dict[type, Any]) -> Arguments:
        """By type. What the call brings itself comes before what is the same for all."""
        return {
            Messenger: self.messenger,
            MeshClient: self.mesh,
            Presence: self.presence,
            Database: self.database,
            Settings: self.settings,
            **call,
        }

"""The two histories of one schema: the engine's tables (`bff_…`), and the app's.

Each has its own folder of Alembic revisions and its own version table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TextIO

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from bff.db.database import VERSION_TABLE


@dataclass(frozen=True, slots=True)
class Applied:
    """The revisions of a history that a database has, compared with those of this code."""

    revisions: frozenset[str]
    heads: frozenset[str]
    """The newest revisions of this code."""
    unknown: frozenset[str]
    """Those that this code does not have."""
    is_pending: bool
    """Whether a revision of this code is not applied.

    A schema of a later version is not pending: during a rolling update old instances use it.
    """

    def __str__(self) -> str:
        state = "head"
        if self.unknown:
            state = f"newer than this code, whose head is {_names(self.heads)}"
        elif self.is_pending:
            state = "pending"
        return f"{_names(self.revisions)} ({state})"


@dataclass(frozen=True, slots=True)
class History:
    """A folder of Alembic revisions and its version table."""

    name: str
    """`engine` or `app`."""
    folder: Path
    version_table: str

    def config(self, connection: Connection | None = None, output: TextIO | None = None) -> Config:
        """The configuration of Alembic, without `alembic.ini`. SQL is written to `output`."""
        config = Config(output_buffer=output)
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        config.attributes["version_table"] = self.version_table
        return config

    def applied(self, connection: Connection) -> Applied:
        """What the database of this connection has."""
        options = {"version_table": self.version_table}
        context = MigrationContext.configure(connection, opts=options)
        revisions = frozenset(context.get_current_heads())
        heads, known = _revisions(self)
        unknown = revisions - known
        return Applied(revisions, heads, unknown, not unknown and revisions != heads)

    def is_before(self, revision: str, applied: Applied) -> bool:
        """Whether going from `applied` to this revision is a downgrade.

        Raises:
            alembic.util.CommandError: this code has no such revision.
        """
        if revision.startswith("+") or revision in ("head", "heads"):
            return False
        if revision.startswith("-") or revision == "base":
            return True
        scripts = ScriptDirectory.from_config(self.config())
        target = scripts.get_revision(revision).revision
        if target in applied.revisions:
            return False
        earlier = scripts.revision_map.iterate_revisions(tuple(applied.revisions), "base")
        return target in {script.revision for script in earlier}


ENGINE: Final = History("engine", Path(__file__).with_name("migrations"), VERSION_TABLE)
APP: Final = History("app", Path(__file__).parents[2] / "migrations", "alembic_version")
HISTORIES: Final = (ENGINE, APP)
"""In the order of their application."""


def _names(revisions: frozenset[str]) -> str:
    return ", ".join(sorted(revisions)) or "none"


@cache
def _revisions(history: History) -> tuple[frozenset[str], frozenset[str]]:
    """The head revisions of this code, and all of its revisions."""
    directory = ScriptDirectory.from_config(history.config())
    known = frozenset(script.revision for script in directory.walk_revisions())
    return frozenset(directory.get_heads()), known


async def applied(
    engine: AsyncEngine, histories: Sequence[History] = HISTORIES
) -> dict[str, Applied]:
    """What the database has of each history, by its name."""
    async with engine.connect() as connection:
        return {each.name: await connection.run_sync(each.applied) for each in histories}


def pending(found: dict[str, Applied]) -> str:
    """Which histories have revisions that were not applied, as a sentence; empty if none has."""
    names = [f"the {name}'s" for name, has in found.items() if has.is_pending]
    return f"{' and '.join(names)} revisions are not applied: run `bff migrate`" if names else ""


def newer(found: dict[str, Applied]) -> str:
    """Which histories the database has in a later version, as a sentence; empty if none."""
    return " and ".join(
        f"the {name}'s tables are newer than this code (revision {_names(has.unknown)})"
        for name, has in found.items()
        if has.unknown
    )

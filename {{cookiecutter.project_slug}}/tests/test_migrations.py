"""The revisions in `migrations/` create exactly the tables of `app/tables.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def alembic() -> Iterator[Config]:
    """Alembic with the configuration of `make revision`, on an empty database."""
    config = Config(toml_file=PROJECT / "pyproject.toml")
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        config.attributes["connection"] = connection
        yield config


def test_the_revisions_match_the_tables(alembic: Config) -> None:
    command.upgrade(alembic, "head")
    command.check(alembic)


def test_every_revision_can_be_downgraded(alembic: Config) -> None:
    command.upgrade(alembic, "head")
    command.downgrade(alembic, "base")
    command.upgrade(alembic, "head")

"""An update and its rollback: an old and a new version of a project share one database."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.baked import InstalledProject
from tests.e2e.deployment import Deployment, new_database
from tests.servers import Server

_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {before!r}


def upgrade() -> None:
    op.add_column("{table}", sa.Column("colour", sa.String(20)))


def downgrade() -> None:
    op.drop_column("{table}", "colour")
"""
_NOTES = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("note", sa.Column("id", sa.Integer(), primary_key=True))


def downgrade() -> None:
    op.drop_table("note")
"""


@pytest.fixture(scope="module")
def old(installed: InstalledProject, tmp_path_factory: pytest.TempPathFactory) -> InstalledProject:
    """A project with one table."""
    project = installed.copy(tmp_path_factory.mktemp("old") / "project")
    (project.path / "migrations" / "versions" / "0001_note.py").write_text(_NOTES)
    return project


@pytest.fixture(scope="module")
def new(old: InstalledProject, tmp_path_factory: pytest.TempPathFactory) -> InstalledProject:
    """Its next version, with a revision more in each history."""
    project = old.copy(tmp_path_factory.mktemp("new") / "project")
    for folder, table, before in (
        ("migrations", "note", "0001"),
        ("bff/db/migrations", "bff_broadcast", "0001"),
    ):
        text = _REVISION.format(revision="0002", before=before, table=table)
        (project.path / folder / "versions" / "0002_colour.py").write_text(text)
    return project


@pytest.fixture(params=["SQLite", "PostgreSQL"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "SQLite":
        return f"sqlite+aiosqlite:///{tmp_path}/bff.sqlite3"
    return await new_database(request.getfixturevalue("postgres_server"))


@pytest.fixture
def deploy(
    database_url: str, redis_server: Server, rabbitmq_server: Server, tmp_path: Path
) -> Iterator[Callable[[InstalledProject], Deployment]]:
    deployments: list[Deployment] = []

    def deploy(project: InstalledProject) -> Deployment:
        urls = {"REDIS_URL": redis_server.url, "AMQP_URL": rabbitmq_server.url}
        deployments.append(Deployment(project, tmp_path, DATABASE_URL=database_url, **urls))
        return deployments[-1]

    yield deploy
    for deployment in deployments:
        deployment.close()


def said(deployment: Deployment, *arguments: str, exit_code: int = 0) -> str:
    done = deployment.bff(*arguments)
    assert done.returncode == exit_code, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.mark.long
async def test_an_update_and_its_rollback(
    deploy: Callable[[InstalledProject], Deployment],
    old: InstalledProject,
    new: InstalledProject,
    database_url: str,
) -> None:
    before, after = deploy(old), deploy(new)
    assert said(before, "migrate") == "The database is up to date.\n"
    await _run(database_url, "INSERT INTO note (id) VALUES (1)")
    assert said(after, "migrate", "--current") == "engine: 0001 (pending)\napp: 0001 (pending)\n"
    printed = said(after, "migrate", "--sql")
    assert re.findall(r"ALTER TABLE (\w+) ADD COLUMN colour", printed) == ["bff_broadcast", "note"]
    said(after, "migrate")

    # An old instance comes back in the middle of the update.
    newer = (
        "the engine's tables are newer than this code (revision 0002) and "
        "the app's tables are newer than this code (revision 0002)"
    )
    assert said(before, "migrate") == f"Not changed: {newer}.\n"
    assert f"warn database schema: {newer}\n" in before.bff("doctor").stdout
    state = "0002 (newer than this code, whose head is 0001)"
    assert said(before, "migrate", "--current") == f"engine: {state}\napp: {state}\n"
    instance = before.serve("old")
    instance.until_ready()
    assert "0002" in said(before, "migrate", "--to", "app:0001", exit_code=1)

    # The rollback, while it serves.
    assert said(after, "migrate", "--to", "app:0001") == "The app's tables are at 0001.\n"
    assert said(after, "migrate", "--current") == "engine: 0002 (head)\napp: 0001 (pending)\n"
    said(after, "migrate", "--to", "engine:-1")
    assert said(before, "migrate") == "The database is up to date.\n"
    assert instance.is_ready()
    await _run(database_url, "UPDATE note SET id = 2 WHERE id = 1")


async def _run(database_url: str, statement: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        assert (await connection.exec_driver_sql(statement)).rowcount == 1
    await engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "0001"], "engine:REV or app:REV"),
        (["--to", "app:"], "engine:REV or app:REV"),
        (["--current", "--sql"], "use it alone"),
    ],
)
def test_what_makes_no_sense_is_refused(
    installed: InstalledProject, tmp_path: Path, arguments: list[str], words: str
) -> None:
    deployment = Deployment(installed, tmp_path, ENVIRONMENT="development")
    assert words in said(deployment, "migrate", *arguments, exit_code=2)


def test_a_database_that_is_away_is_one_sentence(
    installed: InstalledProject, tmp_path: Path
) -> None:
    url = "postgresql+asyncpg://nobody@127.0.0.1:1/bff"
    deployment = Deployment(installed, tmp_path, ENVIRONMENT="development", DATABASE_URL=url)
    answer = said(deployment, "migrate", exit_code=1)
    assert answer.startswith("Error: database unavailable: ")
    assert answer.count("\n") == 1


def test_alembic_works_with_the_files_of_the_image(old: InstalledProject, tmp_path: Path) -> None:
    """`docker compose run --rm migrate alembic …`: only what .dockerignore lets through."""
    image = replace(old, path=tmp_path / "image")
    image.path.mkdir()
    for line in old.read(".dockerignore").splitlines():
        if line.startswith("!"):
            source, target = old.path / line[1:], image.path / line[1:]
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    deployment = Deployment(image, tmp_path, ENVIRONMENT="development")
    alembic = image.venv / "bin" / "alembic"

    def printed(*arguments: str) -> str:
        done = image.run(alembic, *arguments, **deployment.settings)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    for arguments, revision in ((["upgrade", "head"], "0001 (head)"), (["downgrade", "base"], "")):
        assert printed(*arguments) == ""
        assert printed("current") == revision
    assert "CREATE TABLE note" in printed("upgrade", "head", "--sql")
    assert said(deployment, "migrate", "--current").endswith("app: none (pending)\n")

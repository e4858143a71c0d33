"""`make revision`: a changed table gets its migration, and the engine's tables stay out of it."""

from __future__ import annotations

import subprocess

from tests.baked import BakedProject, InstalledProject
from tests.template.conftest import Bake

TABLE = """

class Note(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    user_id: str = Field(index=True, max_length=128)
    written_at: datetime = Field(sa_type=UtcDateTime)
"""
IMPORTS = {
    "from sqlmodel import SQLModel\n": "from sqlmodel import Field, SQLModel\n",
    "from bff import NAMING_CONVENTION\n": "from bff import NAMING_CONVENTION, UtcDateTime\n",
    "annotations\n": "annotations\n\nfrom datetime import datetime\n",
}


def make(
    project: BakedProject, installed: InstalledProject, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A `make` of this project, with what is installed for another."""
    installed_already = ["-o", "requirements-dev.lock", "-o", "pyproject.toml"]
    return project.run(
        "make",
        *installed_already,
        f"VENV={installed.venv}",
        *arguments,
        PYTHONPATH=str(project.path),
    )


def test_a_new_table_gets_its_migration(bake: Bake, installed: InstalledProject) -> None:
    project = bake()
    tables, versions = project.path / "app/tables.py", project.path / "migrations/versions"
    text = tables.read_text()
    for old, new in IMPORTS.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    tables.write_text(text + TABLE)

    forgotten = make(project, installed, "test", "ARGS=tests/test_migrations.py")
    assert forgotten.returncode != 0
    assert "New upgrade operations detected" in forgotten.stdout

    done = make(project, installed, "revision", "MESSAGE=Add the user's notes")
    assert done.returncode == 0, done.stdout
    (revision,) = versions.glob("*.py")
    assert revision.name.endswith("_add_the_user_s_notes.py")
    text = revision.read_text()
    assert text.startswith('"""Add the user\'s notes."""')
    assert text.count("op.create_table(") == 1
    assert "sa.DateTime(timezone=True)" in text
    assert "bff_" not in text
    for arguments in (["migrate"], ["test", "ARGS=tests/test_migrations.py"]):
        done = make(project, installed, *arguments)
        assert done.returncode == 0, done.stdout
    for command in (["check"], ["format", "--check"]):
        done = project.run(installed.python, "-m", "ruff", *command, "app", "migrations")
        assert done.returncode == 0, done.stdout


def test_a_revision_without_a_message_is_refused(bake: Bake, installed: InstalledProject) -> None:
    project = bake()
    done = make(project, installed, "revision")
    assert done.returncode != 0
    assert 'Describe the change: make revision MESSAGE="add notes"' in done.stdout
    assert not list((project.path / "migrations/versions").glob("*.py"))

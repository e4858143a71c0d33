"""`bff contract` and `bff types`, in a project's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bff.cli import main
from bff.contract import commands
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from click.testing import CliRunner, Result
from fastapi import FastAPI
from pydantic import BaseModel

from tests.engine.echo import create_app


class Order(BaseModel):
    number: int


class Params(BaseModel):
    item: str


class NewParams(Params):
    quantity: int


class Project:
    """A folder without an `.env`, as in CI, and an app that changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.params: type[BaseModel] = Params
        (folder / ".env.example").write_text(
            "APP_NAME=shop\nAMQP_URL=memory://\nREDIS_URL=memory://\nENVIRONMENT=development\n"
        )
        monkeypatch.chdir(folder)
        for name in ("APP_NAME", "JWT_SECRET"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(commands, "load", lambda _: self.create_app)

    def create_app(self, settings: Settings) -> FastAPI:
        realtime = RealtimeRouter()
        realtime.expose("shop", methods=["buy"], params=self.params, result=Order)
        realtime.expose("old", methods=["call"])
        realtime.emits("opened", str, description="Le café est ouvert.")
        return create_app(settings, realtime)

    def run(self, *arguments: str) -> Result:
        return CliRunner(env={"JWT_SECRET": None}).invoke(main, arguments)


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Project:
    return Project(monkeypatch, tmp_path)


def test_documents_are_written_checked_and_compared(project: Project) -> None:
    missing = project.run("contract", "--check")
    assert missing.exit_code == 1
    assert "asyncapi.json is missing" in missing.output
    assert not (project.folder / "contract").exists()

    written = project.run("contract")
    assert written.exit_code == 0, written.output
    assert "not declared: method old.call: params, result" in written.output
    document = json.loads((project.folder / "contract" / "asyncapi.json").read_text())
    assert document["info"]["title"] == "shop"
    assert project.run("contract", "--check").exit_code == 0

    project.params = NewParams
    before = (project.folder / "contract" / "openapi.json").read_text()
    stale = project.run("contract", "--check")
    assert stale.exit_code == 1
    broken = "breaks old clients: method shop.buy: payload.params.quantity is newly required"
    assert broken in stale.output
    assert (
        "breaks old clients: POST /rpc/shop/buy: body: quantity is newly required" in stale.output
    )
    assert "openapi.json is stale" in stale.output
    assert (project.folder / "contract" / "openapi.json").read_text() == before

    assert broken in project.run("contract").output
    assert project.run("contract", "--check").exit_code == 0


def test_the_documents_that_are_written_are_those_that_the_app_serves(
    project: Project, settings: Settings
) -> None:
    assert project.run("contract").exit_code == 0
    written = json.loads((project.folder / "contract" / "openapi.json").read_text())
    served = project.create_app(settings).openapi()
    assert written["components"]["schemas"] == served["components"]["schemas"]
    assert written["paths"] == served["paths"]


def test_a_document_that_is_not_json_is_named(project: Project) -> None:
    (project.folder / "contract").mkdir()
    (project.folder / "contract" / "asyncapi.json").write_text("<<<<<<<")
    done = project.run("contract", "--check")
    assert done.exit_code == 1
    assert "asyncapi.json is not JSON" in done.output


def test_the_documents_are_files_that_people_can_compare_line_by_line(project: Project) -> None:
    """As editors and `git diff` show them: indented, with letters instead of escapes."""
    done = project.run("contract", "--folder", "docs/api")
    assert done.exit_code == 0, done.output
    folder = Path("docs", "api")
    for name in ("asyncapi.json", "openapi.json"):
        assert f"wrote {folder / name}\n" in done.output
        text = (folder / name).read_text("utf-8")
        assert '\n  "info": {\n    "title": "shop",\n' in text
        assert text.endswith("\n}\n")
    assert '"description": "Le café est ouvert."' in (folder / "asyncapi.json").read_text("utf-8")
    assert "wrote" not in project.run("contract", "--folder", "docs/api").output


def test_types_are_printed_and_nothing_else(project: Project) -> None:
    done = project.run("types")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("// Written by `bff types`.")
    assert done.stdout.endswith("}\n")
    assert "buy: { params: Params; result: Order };" in done.stdout

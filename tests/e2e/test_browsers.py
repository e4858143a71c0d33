"""The example app of `docs/examples/web`, built as a user builds it, in real browsers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import browsers, node
from tests.e2e.web_run import PROJECT, link_packages, run_tests


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example app with the packages that it names, and the client."""
    app = tmp_path_factory.mktemp("web")
    shutil.copytree(PROJECT / "docs" / "examples" / "web", app, dirs_exist_ok=True)
    link_packages(app)
    node.output_of(["node", "node_modules/typescript/bin/tsc"], cwd=app)
    node.output_of(["node", "node_modules/vite/bin/vite.js", "build"], cwd=app)
    (app / "dist" / "empty.html").write_text(
        '<!doctype html><title>Another page</title><link rel="icon" href="data:,">'
    )
    return app


@pytest.mark.parametrize("browser", [browsers.chromium, browsers.firefox])
@pytest.mark.parametrize("tests", ["browsers", pytest.param("put-aside", marks=pytest.mark.long)])
def test_the_example_app(
    built: Path, tmp_path: Path, tests: str, browser: Callable[[], str]
) -> None:
    variables = {"APP": str(built / "dist"), "BROWSER": browser()}
    run_tests(tests, built, tmp_path / "web.sqlite3", variables=variables)

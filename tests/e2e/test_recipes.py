"""The recipes of `docs/front-end.md` as the docs show them, against a running BFF."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browsers, node
from tests.e2e.web_run import PROJECT, link_packages, run_tests
from tests.servers.server import free_port

EXAMPLES = PROJECT / "docs" / "examples"
NEXT_PACKAGES = Path(node.__file__).parent / "next"
BUILD_SECONDS = 240
CAPACITOR_PAGE = """\
import { createBff } from "./capacitor.js";

const [url, token] = new URLSearchParams(location.search).getAll("with");
globalThis.states = [];
globalThis.bff = createBff(url, async () => token);
globalThis.bff.onState((status) => globalThis.states.push(status.state), { current: true });
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    shutil.copytree(EXAMPLES / "recipes", folder)
    link_packages(folder)
    return folder


def test_tanstack_query_fetches_again_after_an_event_and_after_a_gap(
    recipes: Path, tmp_path: Path
) -> None:
    command = node.needed_websocket_command()
    run_tests("tanstack", recipes, tmp_path / "x.sqlite3", command=command, variables={})


@pytest.mark.long
def test_an_app_of_capacitor_closes_in_the_background_and_connects_on_return(
    recipes: Path, tmp_path: Path
) -> None:
    """On Capacitor's web platform: its native shells do not run here."""
    chromium = browsers.chromium()
    page = recipes / "page"
    page.mkdir()
    (recipes / "entry.js").write_text(CAPACITOR_PAGE)
    bundle = ["--bundle", "--format=esm", "--outfile=page/entry.js"]
    node.output_of(["node", "node_modules/esbuild/bin/esbuild", "entry.js", *bundle], cwd=recipes)
    (page / "index.html").write_text(
        '<!doctype html><title>An app</title><link rel="icon" href="data:,">'
        '<script type="module" src="/entry.js"></script>'
    )
    variables = {"APP": str(page), "BROWSER": chromium}
    run_tests("capacitor", recipes, tmp_path / "x.sqlite3", variables=variables)


@pytest.fixture
def next_app() -> Iterator[Path]:
    """The example below the packages of Next.js, which it does not take through links."""
    with tempfile.TemporaryDirectory(dir=node.packages(NEXT_PACKAGES)) as name:
        folder = Path(name)
        shutil.copytree(EXAMPLES / "next", folder, dirs_exist_ok=True)
        shutil.copytree(PROJECT / "client", folder / "node_modules" / "bff-client")
        (folder / "tests").mkdir()
        link_packages(folder / "tests")
        yield folder


@pytest.mark.long
def test_nextjs_renders_on_the_server_and_its_page_connects_through_its_rewrites(
    next_app: Path, tmp_path: Path
) -> None:
    chromium = browsers.chromium()
    program = next_app.parent / "node_modules" / "next" / "dist" / "bin" / "next"
    bff, front = free_port(), free_port()
    variables = {
        "BFF_PORT": str(bff),
        "BFF_URL": f"http://127.0.0.1:{bff}",
        "NEXT_PORT": str(front),
        "NEXT_TELEMETRY_DISABLED": "1",
        "ALLOWED_ORIGINS": f"http://localhost:{front}",
    }
    node.output_of(
        ["node", program, "build"], cwd=next_app, seconds=BUILD_SECONDS, variables=variables
    )
    variables |= {"APP": str(next_app), "NEXT": str(program), "BROWSER": chromium}
    run_tests("next", next_app / "tests", tmp_path / "x.sqlite3", variables=variables)

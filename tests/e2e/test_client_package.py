"""The client as a package of npm: types, style, size, and what resolves to what."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
from bff.version import __version__

from tests import node

PROJECT = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}"
CLIENT = PROJECT / "client"
MAX_CORE_BYTES = 7 * 1024
"""Minified and compressed, without what is loaded when it is used."""

_STRICT = {
    "allowJs": True,
    "checkJs": True,
    "strict": True,
    "noEmit": True,
    "noUnusedLocals": True,
    "noImplicitOverride": True,
    "skipLibCheck": True,
    "target": "ES2022",
    "lib": ["ES2022", "DOM", "DOM.Iterable"],
    "module": "NodeNext",
    "types": [],
}
_CLASS_IS_AS_DECLARED = """\
import type * as Public from "./client/bff-client.js";
import { BffClient } from "./client/core/client.js";
import { CloseCode } from "./client/core/close-codes.js";

export const client: Public.BffClient = new BffClient();
export const codes: typeof Public.CloseCode = CloseCode;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The client and the examples beside the packages that tests use."""
    (tmp_path / "node_modules").symlink_to(node.packages() / "node_modules")
    shutil.copytree(CLIENT, tmp_path / "client")
    shutil.copytree(PROJECT / "docs" / "examples", tmp_path / "examples")
    return tmp_path


def _node(folder: Path, *arguments: str) -> str:
    return node.output_of(["node", *arguments], cwd=folder)


def test_the_types_in_its_comments_are_right_and_those_of_users_too(folder: Path) -> None:
    (folder / "declared.ts").write_text(_CLASS_IS_AS_DECLARED)
    files = ["declared.ts", "client/**/*.js", "client/**/*.d.ts"]
    config = {"compilerOptions": _STRICT, "include": files}
    (folder / "tsconfig.json").write_text(json.dumps(config))
    _node(folder, "node_modules/typescript/bin/tsc", "-p", ".")


def test_its_style_is_that_of_biome(folder: Path) -> None:
    shutil.copy2(Path(node.__file__).with_name("biome.json"), folder)
    _node(
        folder, "node_modules/@biomejs/biome/bin/biome", "ci", "--colors=off", "client", "examples"
    )


def test_its_core_is_small(folder: Path) -> None:
    (folder / "page.js").write_text('export { BffClient, BffError } from "./client/bff-client.js";')
    on_demand = [
        f"--external:./{path}"
        for source in (folder / "client" / "core").glob("*.js")
        for path in re.findall(r'(?<!{)import\("\./(.+?)"\)', source.read_text())
    ]
    assert len(on_demand) == 3
    options = ["--bundle", "--minify", "--format=esm", "--target=es2022", "--outfile=core.js"]
    _node(folder, "node_modules/esbuild/bin/esbuild", "page.js", *options, *on_demand)
    size = len(gzip.compress((folder / "core.js").read_bytes(), 9))
    print(f"{size} bytes")
    assert size <= MAX_CORE_BYTES


def test_it_can_be_published_and_required(folder: Path) -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    assert package["version"] == __version__
    assert "private" not in package
    assert package["sideEffects"] is False
    for entry in package["exports"].values():
        for path in [entry] if isinstance(entry, str) else entry.values():
            assert (CLIENT / path).is_file(), path
    shutil.copytree(CLIENT, folder / "own" / "node_modules" / "bff-client")
    (folder / "own" / "use.cjs").write_text(
        'const { BffClient } = require("bff-client"); console.log(new BffClient().state);'
    )
    (folder / "own" / "use.mjs").write_text(
        'import { BffClient } from "bff-client"; console.log(new BffClient().state);'
    )
    for name in ("own/use.cjs", "own/use.mjs"):
        assert _node(folder, "--no-warnings", name).strip() == "closed"


def test_its_hooks_and_composables(folder: Path) -> None:
    shutil.copy2(Path(__file__).with_name("web") / "frameworks.test.mjs", folder)
    _node(folder, "--test", "--test-reporter=spec", "frameworks.test.mjs")

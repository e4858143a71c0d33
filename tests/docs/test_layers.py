"""A package of the engine imports from lower layers only. import-linter checks it, and
`docs/architecture.md` shows the same layers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.bake import PROJECT, ROOT

CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}
UP = (
    ("layers", "bff/auth/caller.py", "import bff.endpoints"),
    ("layers", "bff/cluster/index.py", "from bff.mesh import client"),
    ("layers", "bff/room_without_a_layer.py", ""),
    ("strangers", "bff/mesh/service.py", "from bff.connections import frames"),
    ("rabbitmq", "bff/doctor.py", "from bff.mesh.rabbitmq import transport"),
    ("cycles", "bff/cluster/keys.py", "import bff.cluster.messenger"),
    ("face", "bff/auth/caller.py", "from bff import Settings"),
    ("app", "bff/cli.py", "def serve_app() -> None:\n    import app.main"),
)
"""A contract, a file, and an import that violates the contract there."""


def lint_imports(folder: Path, contract: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            Path(sys.executable).with_name("lint-imports"),
            ROOT / "pyproject.toml",
            "--no-cache",
            "--no-logo",
            f"--contract={contract}",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_engine_keeps_the_contract(contract: str) -> None:
    done = lint_imports(ROOT / PROJECT, contract)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("contract", "file", "line"), UP)
def test_the_contract_catches(template: Path, contract: str, file: str, line: str) -> None:
    """Changes the exported template, and restores it afterwards."""
    path = template / PROJECT / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        done = lint_imports(template / PROJECT, contract)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout
    assert path.stem in done.stdout


def test_every_contract_has_a_test_case() -> None:
    assert {contract for contract, _, _ in UP} == set(CONTRACTS)


def test_the_architecture_page_shows_the_same_layers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.split("## Layers")[1].split("```")[1].strip().splitlines()
    shown = [line.split("  ")[0] for line in drawing]
    assert [", ".join(layer.split(" | ")) for layer in CONTRACTS["layers"]["layers"]] == shown

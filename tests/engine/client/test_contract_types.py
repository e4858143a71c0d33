"""`BffClient<Contract>`: what tsc accepts and what it refuses, line by line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from bff.contract.contract import contract_of
from bff.contract.typescript import typescript

from tests import node
from tests.engine.everything import feature

HERE = Path(__file__).parent
CLIENT = Path(__file__).parents[3] / "{{cookiecutter.project_slug}}" / "client"


@pytest.mark.parametrize("name", ["errors.ts", "hooks.ts"])
def test_wrong_names_parameters_results_and_payloads_do_not_compile(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(node.packages() / "node_modules")
    for types in CLIENT.glob("*.d.ts"):
        shutil.copy2(types, tmp_path)
    contract = contract_of(feature(), title="Shop", version="1", socket_path="/ws")
    (tmp_path / "contract.d.ts").write_text(typescript(contract))
    shutil.copy2(HERE / name, tmp_path)
    lines = (HERE / name).read_text().splitlines()
    expected = [number for number, line in enumerate(lines, 1) if line.endswith("// error")]
    reported = node.tsc(tmp_path / name, options=("--skipLibCheck",))
    numbers = {int(found[1]) for line in reported if (found := re.match(rf"{name}\((\d+),", line))}
    assert sorted(numbers) == expected, "\n".join(reported)
    assert all(line.startswith(f"{name}(") for line in reported), "\n".join(reported)

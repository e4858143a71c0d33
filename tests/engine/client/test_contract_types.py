"""`BffClient<Contract>`: what tsc accepts and what it refuses, line by line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bff.contract.contract import contract_of
from bff.contract.typescript import typescript

from tests import node
from tests.engine.everything import feature

ERRORS = Path(__file__).with_name("errors.ts")
CLIENT = Path(__file__).parents[3] / "{{cookiecutter.project_slug}}" / "client"


def test_wrong_names_parameters_results_and_payloads_do_not_compile(tmp_path: Path) -> None:
    for types in CLIENT.glob("*.d.ts"):
        shutil.copy2(types, tmp_path)
    contract = contract_of(feature(), title="Shop", version="1", socket_path="/ws")
    (tmp_path / "contract.d.ts").write_text(typescript(contract))
    shutil.copy2(ERRORS, tmp_path)
    lines = ERRORS.read_text().splitlines()
    expected = [number for number, line in enumerate(lines, 1) if line.endswith("// error")]
    reported = node.tsc(tmp_path / "errors.ts")
    numbers = {
        int(found[1]) for line in reported if (found := re.match(r"errors\.ts\((\d+),", line))
    }
    assert sorted(numbers) == expected, "\n".join(reported)
    assert all(line.startswith("errors.ts(") for line in reported), "\n".join(reported)

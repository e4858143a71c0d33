"""The contract as npm sees it: the parser of AsyncAPI, json-schema-to-typescript, tsc."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from bff.contract.asyncapi import asyncapi, draft_7
from bff.contract.contract import Contract, contract_of
from bff.contract.typescript import type_names, typescript

from tests import node
from tests.engine.everything import feature

HERE = Path(__file__).parent
CLIENT = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}" / "client"
EQUAL = """
type Equal<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
function same<A, B>(_: Equal<A, B>): void {}
"""


@pytest.fixture
def contract() -> Contract:
    return contract_of(feature(), title="Shop", version="1.2.3", socket_path="/ws")


@pytest.fixture
def text(contract: Contract) -> str:
    return typescript(contract)


def test_the_parser_of_asyncapi_finds_no_fault(contract: Contract) -> None:
    done = node.run(node.HERE / "asyncapi.mjs", given=json.dumps(asyncapi(contract)))
    assert (done.returncode, done.stdout) == (0, "")


def test_each_model_is_the_type_that_json_schema_to_typescript_makes(
    contract: Contract, text: str, tmp_path: Path
) -> None:
    names = type_names(contract.definitions)
    ours = set(re.findall(r"export (?:interface|type) (\w+)", text)) - {"Contract"}
    assert {"Order", "Place", "Node", "Message", "Subscribe", "AddressInput"} <= ours

    def renamed(reference: re.Match[str]) -> str:
        return f'"#/definitions/{names[reference[1]]}"'

    ours.remove("Nothing")  # theirs is `{}`, which accepts anything
    definitions = {names[name]: draft_7(one) for name, one in contract.definitions.items()}
    definitions["Order"]["properties"]["anything"]["tsType"] = "unknown"  # theirs is an object
    whole = json.dumps(definitions)
    schemas = json.loads(re.sub(r'"#/components/schemas/([^"]+)"', renamed, whole))
    done = node.run(node.HERE / "json-schema-to-typescript.mjs", given=json.dumps(schemas))
    assert done.returncode == 0, done.stdout
    (tmp_path / "ours.ts").write_text(text)
    (tmp_path / "theirs.ts").write_text(done.stdout)
    lines = [
        'import type * as ours from "./ours.js";',
        'import type * as theirs from "./theirs.js";',
        EQUAL,
        *(f'same<ours.{name}, NonNullable<theirs.All["{name}"]>>(true);' for name in sorted(ours)),
    ]
    (tmp_path / "equal.ts").write_text("\n".join(lines))
    assert node.tsc(tmp_path / "equal.ts") == []
    (tmp_path / "different.ts").write_text(
        "\n".join((*lines[:3], "same<ours.Order, ours.Place>(true);"))
    )
    assert len(node.tsc(tmp_path / "different.ts")) == 1


def test_methods_events_and_topics_are_named_with_their_types(text: str, tmp_path: Path) -> None:
    (tmp_path / "contract.ts").write_text(text)
    (tmp_path / "uses.ts").write_text(
        """
import type { Contract, Message, Order, Place } from "./contract.js";
type M = Contract["methods"];
const place: { params: Place; result: Order } = {} as M["orders"]["place"];
const list: Order[] = {} as M["orders"]["list"]["result"];
const noParams: M["orders"]["list"]["params"] = undefined;
const pattern: Order = {} as M["orders"]["get_all"]["result"];
const nothing: null = {} as unknown as M["chat"]["now"]["result"];
const dash: unknown = {} as M["old"]["un-do"]["result"];
const updated: Order = {} as Contract["events"]["order.updated"];
const typing: string = {} as Contract["events"]["typing"];
const message: Message = {} as Contract["topics"]["rooms.kitchen"];
const price: number = {} as Contract["topics"]["prices.tea.green"];
const online: "user.online" | "user.offline" = ({} as Contract["topics"]["presence.bob"]).type;
const wrong: number = {} as M["chat"]["nothing"];
const alsoWrong: string = {} as Contract["topics"]["prices.tea"];
const missing: Place = {};
"""
    )
    errors = node.tsc(tmp_path / "uses.ts")
    assert [re.match(r"uses\.ts\((\d+),", line)[1] for line in errors] == ["15", "16", "17"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["contract_errors.ts", "contract_hooks.ts"])
def test_wrong_names_parameters_results_and_payloads_do_not_compile(
    name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(node.packages() / "node_modules")
    for types in CLIENT.glob("*.d.ts"):
        shutil.copy2(types, tmp_path)
    (tmp_path / "contract.d.ts").write_text(text)
    shutil.copy2(HERE / name, tmp_path)
    lines = (HERE / name).read_text().splitlines()
    expected = [number for number, line in enumerate(lines, 1) if line.endswith("// error")]
    reported = node.tsc(tmp_path / name, options=("--skipLibCheck",))
    numbers = {int(found[1]) for line in reported if (found := re.match(rf"{name}\((\d+),", line))}
    assert sorted(numbers) == expected, "\n".join(reported)
    assert all(line.startswith(f"{name}(") for line in reported), "\n".join(reported)

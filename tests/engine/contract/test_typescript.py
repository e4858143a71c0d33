"""The types of the page, compared with those of json-schema-to-typescript."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bff.contract.asyncapi import draft_7
from bff.contract.contract import Contract, contract_of
from bff.contract.typescript import type_names, typescript
from bff.realtime.router import RealtimeRouter
from pydantic import BaseModel

from tests import node

EQUAL = """
type Equal<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
function same<A, B>(_: Equal<A, B>): void {}
"""


@pytest.fixture
def text(contract: Contract) -> str:
    return typescript(contract)


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


def test_docstrings_are_comments_and_cannot_end_them(text: str) -> None:
    assert "/**\n * An order.\n *\n * Ends a comment: *\\/\n */\nexport interface Order" in text
    assert "  /** The number *\\/ of the order. */\n  orderId: number;" in text
    assert "      /**\n       * Nothing to say.\n       *\n       * In two paragraphs.\n" in text
    assert "    /** An order has changed. */" in text


def test_models_with_one_name_in_two_modules_and_a_generic_model_get_names() -> None:
    first = type("Item", (BaseModel,), {"__annotations__": {"a": int}, "__module__": "one"})
    second = type("Item", (BaseModel,), {"__annotations__": {"b": str}, "__module__": "two"})
    realtime = RealtimeRouter()
    realtime.expose("s", methods=["m"], params=first, result=second)
    made = typescript(contract_of(realtime, title="t", version="1", socket_path="/ws"))
    names = re.findall(r"export interface (\w+)", made)
    assert len(set(names)) == len(names) == 3


def test_only_models_of_the_app_are_in_it(text: str) -> None:
    assert "RequestFrame" not in text
    assert "Hello" not in text

"""The types of the page: comments, names, and what is not in them."""

from __future__ import annotations

import re

import pytest
from bff.contract.contract import Contract, contract_of
from bff.contract.typescript import typescript
from bff.realtime.router import RealtimeRouter
from pydantic import BaseModel


@pytest.fixture
def text(contract: Contract) -> str:
    return typescript(contract)


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

"""Every promise of these pages has a test that tries to break it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bake import PROJECT, ROOT

PROMISES: dict[str, dict[str, str | list[str]]] = tomllib.loads(
    Path(__file__).with_name("promises.toml").read_text(encoding="utf-8")
)


def blocks(page: str) -> Iterator[str]:
    """The paragraphs, points and rows of a page, each on one line; nothing of what was rejected."""
    text = (ROOT / PROJECT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|^## Rejected\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.M)
    text = re.sub(r"^\|.*\n\|[-|]+\|$", "", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("#") or paragraph.split(" ", 1)[0] == "[The":
            continue
        for block in re.split(r"\n(?=\* |\| )", paragraph.strip()):
            line = " ".join(block.split()).removeprefix("* ")
            if line and not line.startswith("**Rejected.**"):
                yield line


@pytest.mark.parametrize("page", ["delivery", "mesh"])
def test_every_block_of_the_page_is_known(page: str) -> None:
    """A new or changed one needs a test, or a reason why it promises nothing."""
    found = list(blocks(page))
    unknown = [line for line in found if not any(line.startswith(one) for one in PROMISES[page])]
    gone = [one for one in PROMISES[page] if not any(line.startswith(one) for line in found)]
    assert (unknown, gone) == ([], [])


def test_every_promise_is_on_the_page() -> None:
    text = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    assert [one for one in PROMISES["architecture"] if one not in text] == []


@pytest.mark.parametrize("page", PROMISES)
def test_the_tests_of_every_promise_exist(page: str) -> None:
    for promise, tests in PROMISES[page].items():
        for test in tests if isinstance(tests, list) else ():
            path, _, name = test.partition("::")
            file = ROOT / "tests" / path
            assert file.is_file(), (promise, test)
            assert not name or f"def {name}(" in file.read_text(encoding="utf-8"), (promise, test)

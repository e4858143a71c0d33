"""The requirements of `docs/security.md` name tests that exist."""

from __future__ import annotations

import re

from scripts.bake import PROJECT, ROOT

PAGE = (ROOT / PROJECT / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_requirement_names_tests_that_exist() -> None:
    rows = PAGE.split("## Requirements")[1].strip().splitlines()[2:]
    assert len(rows) > 10
    for row in rows:
        tests = re.findall(r"`([a-z0-9_/]+/test_[a-z_]+\.py)`", row.rsplit("|", 2)[1])
        assert tests, row
        for test in tests:
            assert (ROOT / "tests" / test).is_file(), test

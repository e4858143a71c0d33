"""The tests that run in the background pass: the engine's on every kind of server that it supports,
those of the docs, those of the template."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pytest

from tests.background import GIVEN, REAL_SERVERS, BackgroundRuns, Run, run_tests


def tell(skips: Iterable[str]) -> None:
    """Every skip is reported."""
    for skip in skips:
        warnings.warn(f"in the background: {skip}", stacklevel=2)


def test_the_engine_on_embedded_engines(background_runs: BackgroundRuns) -> None:
    """What needs a real server is skipped here, and runs in the next test."""
    tell(skip for skip in background_runs.skips_of("embedded engines") if "TEST_" not in skip)


def test_the_engine_on_real_servers(background_runs: BackgroundRuns) -> None:
    skips = background_runs.skips_of("real servers")
    assert not [skip for skip in skips if "TEST_" in skip]
    tell(skips)


@pytest.mark.parametrize("kind", ["Redis Cluster", "Redis Sentinel"])
def test_delivery_on_every_kind_of_redis(background_runs: BackgroundRuns, kind: str) -> None:
    """Tests that do not apply, such as a proxy before a cluster, are skipped with a reason."""
    tell(background_runs.skips_of(kind))


@pytest.mark.parametrize("name", ["docs", "template"])
def test_docs_and_template(background_runs: BackgroundRuns, name: str) -> None:
    tell(background_runs.skips_of(name))


@pytest.mark.long
@pytest.mark.parametrize(
    "run",
    [
        Run(REAL_SERVERS, marks="long"),
        Run(parts=("tests/docs", "tests/template"), marks="long", variables=GIVEN),
    ],
    ids=["engine", "docs and template"],
)
def test_the_long_ones(run: Run) -> None:
    tell(run_tests(run))

"""The engine's tests pass on every kind of server that it supports."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pytest

from tests.engine_tests import REAL_SERVERS, EngineTests, Run, run_engine_tests


def tell(skips: Iterable[str]) -> None:
    """Every skip is reported."""
    for skip in skips:
        warnings.warn(f"the engine's tests: {skip}", stacklevel=2)


def test_on_embedded_engines(engine_tests: EngineTests) -> None:
    """What needs a real server is skipped here, and runs in the next test."""
    tell(skip for skip in engine_tests.skips_of("embedded engines") if "TEST_" not in skip)


def test_on_real_servers(engine_tests: EngineTests) -> None:
    skips = engine_tests.skips_of("real servers")
    assert not [skip for skip in skips if "TEST_" in skip]
    tell(skips)


@pytest.mark.parametrize("kind", ["Redis Cluster", "Redis Sentinel"])
def test_delivery_on_every_kind_of_redis(engine_tests: EngineTests, kind: str) -> None:
    """Tests that do not apply, such as a proxy before a cluster, are skipped with a reason."""
    tell(engine_tests.skips_of(kind))


@pytest.mark.long
def test_the_long_ones_on_real_servers() -> None:
    tell(run_engine_tests(Run(REAL_SERVERS, marks="long")))

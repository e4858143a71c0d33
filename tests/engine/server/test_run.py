"""What `bff serve` and the test kit set before they serve, and what an app that fails to start
leads to."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from bff.server import run
from bff.settings import Settings
from bff.testing.running import serve
from fastapi import FastAPI


@pytest.mark.parametrize(
    ("limits", "accepted", "raised"),
    [
        ((1024, 4096), 4096, 4096),
        ((256, 2**63 - 1), 10_240, 10_240),
        ((20_000, 2**63 - 1), 20_000, 20_000),
        ((256, 2**63 - 1), 0, 256),
    ],
    ids=["Linux", "macOS", "macOS, raised by its user", "refused"],
)
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_lets(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], accepted: int, raised: int
) -> None:
    now = limits

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        nonlocal now
        if wanted[0] > accepted:
            raise ValueError("current limit exceeds maximum limit")
        now = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: now)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    run._raise_file_limit()
    assert now == (raised, limits[1])


async def test_the_test_kit_says_that_an_app_did_not_start(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def broken(_: FastAPI) -> AsyncIterator[None]:
        raise ValueError("no such server")
        yield

    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(settings, FastAPI(lifespan=broken)):
            pass
    assert "no such server" in caplog.text

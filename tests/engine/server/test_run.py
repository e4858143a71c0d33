"""What `bff serve` and the test kit set before they serve, and what an app that fails to start
leads to."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from bff.server import run
from bff.server.admission import Config
from bff.settings import Settings
from bff.telemetry import logs
from bff.testing import run as run_app
from bff.testing.running import serve
from fastapi import FastAPI
from uvicorn.supervisors import multiprocess

from tests.engine.echo import create_app


class Serving:
    """What `bff serve` would have served with, and how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.how = ""
        self.config: Config
        self.listening = 0
        self.metrics: Path | None = None
        self.logs_of: Settings | None = None
        for how in ("Server", "_Workers", "ChangeReload"):
            monkeypatch.setattr(run, how, self._recorder(how))
        monkeypatch.setattr(logs, "configure", self._configure)
        monkeypatch.setattr(multiprocess, "Process", multiprocess.Process)
        self.environment = {**os.environ}
        self.environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        monkeypatch.setattr(os, "environ", self.environment)

    def _configure(self, settings: Settings) -> None:
        self.logs_of = settings

    def _recorder(self, how: str) -> Callable[..., Any]:
        def make(config: Config, **options: Any) -> Any:
            return SimpleNamespace(run=lambda: self._run(how, config, options))

        return make

    def _run(self, how: str, config: Config, options: dict[str, Any]) -> None:
        assert self.how == "", "it serves once"
        self.how, self.config = how, config
        for listener in options.get("sockets", ()):
            self.listening += 1
            listener.close()
        if folder := self.environment.get("PROMETHEUS_MULTIPROC_DIR"):
            self.metrics = Path(folder)
            assert self.metrics.is_dir()


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    return Serving(monkeypatch)


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, "Server"),
        ({"workers": 2}, "_Workers"),
        ({"reload": True}, "ChangeReload"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_it_is_served_by_one_process_or_by_workers_or_by_one_that_is_reloaded(
    settings: Settings, serving: Serving, options: dict[str, Any], how: str
) -> None:
    run.run(settings, host="127.0.0.1", port=0, **options)
    assert serving.how == how
    assert serving.logs_of is settings
    assert serving.listening == (how != "Server"), "a parent binds the port that its children share"
    assert (multiprocess.Process is run._Worker) is (how == "_Workers")
    assert (serving.metrics is not None) is (how == "_Workers")
    if serving.metrics is not None:
        assert not serving.metrics.exists(), "the metrics end with the processes that they are of"


def test_the_metrics_of_workers_are_kept_where_the_operator_wants_them(
    settings: Settings, serving: Serving, tmp_path: Path
) -> None:
    serving.environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    run.run(settings, host="127.0.0.1", port=0, workers=2)
    assert serving.metrics == tmp_path
    assert tmp_path.is_dir()


@pytest.mark.parametrize(("drain", "last"), [(0.0, 0.0), (0.5, 0.5), (30.0, 1.0)])
def test_an_idle_connection_gets_a_second_for_its_last_request_or_the_drain_time_if_it_is_shorter(
    settings: Settings, serving: Serving, drain: float, last: float
) -> None:
    run.run(settings.model_copy(update={"drain_seconds": drain}), host="127.0.0.1", port=0)
    assert serving.config.last_request_seconds == last


def test_the_files_that_connections_need_are_asked_for_before_connections_are_limited(
    settings: Settings, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = (1024, 4096)

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        nonlocal now
        now = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: now)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    many = settings.model_copy(update={"max_connections": 3000})
    run.run(many, host="127.0.0.1", port=0)
    assert serving.config.max_connections == 3000


def test_a_worker_runs_our_server_and_leaves_no_gauges_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as listener:
        worker = run._Worker(run.configuration(settings), [listener])
    assert isinstance(worker.server, run.Server)
    assert worker.server is worker.server
    gauges, counters = tmp_path / "gauge_livesum_123.db", tmp_path / "counter_123.db"
    gauges.touch()
    counters.touch()
    ended: list[bool] = []
    process: Any = SimpleNamespace(pid=123, join=lambda: ended.append(gauges.exists()))
    worker.process = process
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    worker.join()
    assert ended == [True], "it may write them until it has ended"
    assert not gauges.exists()
    assert counters.exists(), "what it has counted stays counted"


async def test_what_exists_at_the_start_is_not_looked_through_for_garbage_again(
    settings: Settings,
) -> None:
    """With many connections, each full collection would block the loop."""

    class Circle:
        def __init__(self) -> None:
            self.itself = self

    thresholds = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(0)
    try:
        circle = weakref.ref(Circle())
        async with serve(settings, FastAPI()):
            assert gc.get_freeze_count() > 10_000
            assert circle() is None, "garbage would never be freed"
            assert gc.get_threshold()[0] == 20_000
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "another"])
async def test_an_app_is_served_with_a_uvicorn_that_was_not_checked(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    checked: bool,
) -> None:
    """By uvicorn's own classes, and the operator is told."""
    if not checked:
        monkeypatch.setattr(uvicorn, "__version__", "9.9.9")
    app = create_app(settings)
    logging.getLogger().addHandler(caplog.handler)  # the app has configured logging
    async with run_app(app) as bff, bff.browser() as alice:
        assert (await alice.request("echo", "say", text="hello"))["error"] is None
        assert alice.websocket.protocol.extensions == [], "compression costs memory"
        for protocol in bff.server.server_state.connections:
            assert type(protocol).__module__.startswith("bff.") is checked
        assert bff.server.config.http_protocol_class.__module__.startswith("bff.") is checked
        async with bff.http() as http:
            assert "server" not in (await http.get("/health/live")).headers
    told = [line.__dict__ for line in caplog.records if "unsupported uvicorn" in line.message]
    assert [(one["uvicorn"], one["supported"]) for one in told[:1]] == (
        [] if checked else [("9.9.9", "0.54.*")]
    )


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

"""What is measured: one function each, from a server's start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

from benchmarks.client import masked
from benchmarks.contestants import Contestant, Ours, Serving
from benchmarks.parameters import (
    BURST,
    CALLERS,
    FRAME_BYTES,
    INSTANCES_IN_FLIGHT,
    LONE_BROADCASTS,
    USERS_IN_FLIGHT,
    WARM,
    Parameters,
)
from benchmarks.processes import BenchError, Control, Process

Figures = dict[str, float]
Measure = Callable[[Contestant, Parameters], Figures]

_IMPORTS = """
import os, httptools, uvloop, bff.cli, app.main, bff.server.protocol, bff.server.run
os._exit(0)
"""


def connect(contestant: Contestant, parameters: Parameters) -> Figures:
    """Handshakes a second, and what an idle socket costs."""
    with contestant.serve() as serving:
        control = serving.control()
        serving.sockets.open(WARM)
        before = _settled(serving, control, parameters.settle)
        cpu = serving.process.cpu_seconds()
        seconds = serving.sockets.open(WARM + parameters.idle)
        cpu = serving.process.cpu_seconds() - cpu
        after = _settled(serving, control, parameters.settle)
    return {
        "connects": parameters.idle / seconds,
        "connect_cpu_us": cpu / parameters.idle * 1e6,
        "socket_kb": (after - before) / parameters.idle,
    }


def broadcast(contestant: Contestant, parameters: Parameters) -> Figures:
    """Broadcasts to all sockets: without pause, in bursts, and one at a time."""
    figures: Figures = {}
    seconds = parameters.seconds
    with contestant.serve() as serving:
        control, sockets = serving.control(), serving.sockets
        sockets.open(WARM)
        pad = _padding(serving, control)
        for size in sorted({*parameters.sizes, parameters.audience}):
            sockets.open(size)
            sockets.collect(control, "once", pad=pad)
            if size in parameters.sizes:
                sent = sockets.collect(control, "repeat", pad=pad, seconds=seconds)
                figures[f"broadcast_{size}"] = sent.messages / sent.seconds
            if size == parameters.audience:
                sent = sockets.collect(control, "burst", pad=pad, seconds=seconds, size=BURST)
                figures["burst"] = sent.messages / sent.seconds
                figures |= _latencies(serving, control, pad, seconds)
    return figures


def users(contestant: Contestant, parameters: Parameters) -> Figures:
    """Messages to single users."""
    with contestant.serve() as serving:
        control = serving.control()
        serving.sockets.open(WARM)
        pad = _padding(serving, control)
        serving.sockets.open(parameters.audience)
        options = {"users": parameters.audience, "in_flight": USERS_IN_FLIGHT, "pad": pad}
        serving.sockets.collect(control, "users", to_all=False, seconds=0.1, **options)
        sent = serving.sockets.collect(
            control, "users", to_all=False, seconds=parameters.seconds, **options
        )
    return {"users": sent.messages / sent.seconds}


def instances(contestant: Contestant, parameters: Parameters) -> Figures:
    """Broadcasts that are sent on one instance while all sockets are on another."""
    with ExitStack() as stack:
        here = stack.enter_context(contestant.serve())
        there = stack.enter_context(
            contestant.serve_another(cores=contestant.stage.cores.client)
            if isinstance(contestant, Ours)
            else contestant.serve(cores=contestant.stage.cores.client)
        )
        here.sockets.open(WARM)
        pad = _padding(here, here.control())
        here.sockets.open(parameters.audience)
        lines = [there.control() for _ in range(INSTANCES_IN_FLIGHT)]
        here.sockets.stream(lines, 0.1, pad=pad)
        sent = here.sockets.stream(lines, parameters.seconds, pad=pad)
    return {"instances": sent.messages / sent.seconds}


def mesh(contestant: Contestant, parameters: Parameters) -> Figures:
    """Calls from browsers to a nuropb service, through the gateway."""
    with _echo_service(contestant), contestant.serve() as serving:
        serving.sockets.open(CALLERS)
        serving.sockets.call(_call, 0.3)
        before, begun = serving.process.cpu_seconds(), time.monotonic()
        taken = sorted(serving.sockets.call(_call, parameters.seconds * 2))
        seconds = time.monotonic() - begun
        cpu = serving.process.cpu_seconds() - before
    return {
        "calls": len(taken) / seconds,
        "call_p50_ms": _quantile(taken, 0.5) * 1e3,
        "call_p99_ms": _quantile(taken, 0.99) * 1e3,
        "call_cpu_us": cpu / len(taken) * 1e6,
    }


def lag(contestant: Contestant, parameters: Parameters) -> Figures:
    """How long others wait for their turn while a message goes to a crowd."""
    with contestant.serve() as serving:
        control = serving.control()
        serving.sockets.open(WARM)
        pad = _padding(serving, control)
        serving.sockets.open(parameters.crowd)
        serving.sockets.collect(control, "once", pad=pad)
        sent = serving.sockets.collect(
            control, "lag", pad=pad, count=LONE_BROADCASTS, seconds=parameters.seconds
        )
    return {"lag_ms": max(sent.answer["lags"]) * 1e3}


def start(contestant: Contestant, parameters: Parameters) -> Figures:
    """From the command to readiness, beside the mere imports."""
    ours = cast("Ours", contestant)
    imports, ready = [], []
    python = ours.stage.workshop.project_python
    with ours.serve():
        pass
    for _ in range(parameters.starts):
        begun = time.perf_counter()
        ours.run([python, "-c", _IMPORTS]).wait()
        imports.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with ours.serve():
            ready.append(time.perf_counter() - begun)
    return {
        "imports_s": min(imports),
        "start_s": min(ready) - min(imports),
    }


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (broadcast, connect, users, instances, mesh, lag, start)
}


def _padding(serving: Serving, control: Control) -> int:
    """What to put into a message so that its frame has `FRAME_BYTES`."""
    size = serving.sockets.frame_bytes(control, pad=0)
    if size > FRAME_BYTES:
        raise BenchError(f"its smallest frame has {size} bytes")
    return FRAME_BYTES - size


def _settled(serving: Serving, control: Control, seconds: float) -> float:
    control.ask("settle")
    time.sleep(seconds)
    return serving.process.rss_kb()


def _latencies(serving: Serving, control: Control, pad: int, seconds: float) -> Figures:
    """From a lone message's send to its arrival at the last socket."""
    taken: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(taken) < 10:
        taken.append(serving.sockets.collect(control, "once", pad=pad).seconds)
    taken.sort()
    return {
        "last_p50_ms": _quantile(taken, 0.5) * 1e3,
        "last_p99_ms": _quantile(taken, 0.99) * 1e3,
    }


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _call(number: int) -> bytes:
    return masked(
        b'{"type":"request","payload":{"trace_id":"%012d","service":"bench","method":"echo",'
        b'"params":{"item":"tea","quantity":2}}}' % number
    )


@contextmanager
def _echo_service(contestant: Contestant) -> Iterator[Process]:
    """The service runs on the client's core: it is as busy for one gateway as for the other."""
    stage = contestant.stage
    python = stage.workshop.gateway_python
    command: list[str | Path] = [python, "-m", "benchmarks.candidates.echo_service", stage.amqp_url]
    process = stage.start("echo", command, cores=stage.cores.others)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.stop()

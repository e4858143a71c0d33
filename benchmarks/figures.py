"""The figures by name: what each is called, its unit, and whether more of it is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.parameters import BURST, Parameters


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    unit: str
    more_is_better: bool = True


def figures(parameters: Parameters) -> Iterator[Figure]:
    """Every figure, in the order of the report."""
    audience = f"{parameters.audience:,} sockets"
    for size in parameters.sizes:
        yield Figure(f"broadcast_{size}", f"broadcast to {size:,} sockets", "deliveries/s")
    yield Figure("burst", f"bursts of {BURST} to {audience}", "deliveries/s")
    yield Figure("last_p50_ms", f"send to last of {audience}, p50", "ms", False)
    yield Figure("last_p99_ms", f"send to last of {audience}, p99", "ms", False)
    yield Figure("instances", f"across instances to {audience}", "deliveries/s")
    yield Figure("users", "to one user after another", "messages/s")
    yield Figure("calls", "mesh calls", "calls/s")
    yield Figure("call_p50_ms", "mesh call, p50", "ms", False)
    yield Figure("call_p99_ms", "mesh call, p99", "ms", False)
    yield Figure("call_cpu_us", "gateway's CPU per mesh call", "µs", False)
    yield Figure("socket_kb", "memory per idle socket", "KB", False)
    yield Figure("connects", "connecting", "sockets/s")
    yield Figure("connect_cpu_us", "CPU per connect", "µs", False)
    yield Figure("lag_ms", f"longest turn, broadcast to {parameters.crowd:,}", "ms", False)
    yield Figure("imports_s", "the bare imports", "s", False)
    yield Figure("start_s", "from the bare imports to ready", "s", False)


def lead(figure: Figure, ratio: float | None) -> float | None:
    """How many times better ours is, from ours over theirs."""
    if not ratio:
        return None
    return ratio if figure.more_is_better else 1 / ratio


def rounded(value: float) -> str:
    """Three digits."""
    if value >= 100:
        digits = len(str(int(value)))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"

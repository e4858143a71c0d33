"""What the template promises of its speed, and whether these results keep it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from benchmarks.figures import Figure, figures, lead, rounded
from benchmarks.results import Results

OURS = "ours"


@dataclass(frozen=True)
class Verdict:
    promise: str
    measured: str
    kept: bool | None
    """None where it was not measured."""


@dataclass(frozen=True)
class Bar(ABC):
    key: str

    def judge(self, results: Results) -> Verdict:
        """Compare the medians."""
        figure = next(one for one in figures(results.parameters) if one.key == self.key)
        value = self.measure(results, figure)
        if value is None:
            return Verdict(self.promise(figure), "not measured", None)
        return Verdict(self.promise(figure), self.words(figure, value), self.keeps(figure, value))

    @abstractmethod
    def promise(self, figure: Figure) -> str: ...

    @abstractmethod
    def measure(self, results: Results, figure: Figure) -> float | None: ...

    @abstractmethod
    def words(self, figure: Figure, value: float) -> str: ...

    @abstractmethod
    def keeps(self, figure: Figure, value: float) -> bool: ...


@dataclass(frozen=True)
class Ahead(Bar):
    """So many times better than a peer."""

    peer: str
    times: float

    def promise(self, figure: Figure) -> str:
        return f"{figure.title}: ≥ {self.times:g} × {self.peer}"

    def measure(self, results: Results, figure: Figure) -> float | None:
        return lead(figure, results.ratio(self.key, OURS, self.peer))

    def words(self, figure: Figure, value: float) -> str:
        return f"{value:.2f} ×"

    def keeps(self, figure: Figure, value: float) -> bool:
        return value >= self.times


@dataclass(frozen=True)
class Within(Bar):
    """On this side of a limit, whatever the machine."""

    limit: float

    def promise(self, figure: Figure) -> str:
        sign = "≥" if figure.more_is_better else "≤"
        return f"{figure.title}: {sign} {self.limit:,g} {figure.unit}"

    def measure(self, results: Results, figure: Figure) -> float | None:
        summary = results.summary(OURS, self.key)
        return summary.median if summary else None

    def words(self, figure: Figure, value: float) -> str:
        return f"{rounded(value)} {figure.unit}"

    def keeps(self, figure: Figure, value: float) -> bool:
        return value >= self.limit if figure.more_is_better else value <= self.limit


@dataclass(frozen=True)
class Above(Within):
    """At most so much more than a peer."""

    peer: str

    def promise(self, figure: Figure) -> str:
        return f"{figure.title}: ≤ {self.limit:,g} {figure.unit} above {self.peer}"

    def measure(self, results: Results, figure: Figure) -> float | None:
        ours, theirs = (results.summary(name, self.key) for name in (OURS, self.peer))
        return ours.median - theirs.median if ours and theirs else None


BARS: tuple[Bar, ...] = (
    Ahead("broadcast_1000", "python-socketio", 10),
    Ahead("broadcast_1000", "nuropb_gw", 4),
    Ahead("broadcast_1000", "ws", 1.3),
    Ahead("broadcast_1000", "floor", 0.9),
    Ahead("burst", "floor", 3),
    Ahead("calls", "nuropb_gw", 1.1),
    Ahead("call_p99_ms", "nuropb_gw", 1),
    Ahead("call_cpu_us", "nuropb_gw", 1),
    Within("call_cpu_us", 200),
    Within("socket_kb", 16),
    Ahead("socket_kb", "socket.io", 1),
    Ahead("connects", "nuropb_gw", 0.8),
    Above("connect_cpu_us", 300, "detached"),
    Within("users", 10_000),
    Within("lag_ms", 50),
    Within("start_s", 0.5),
)

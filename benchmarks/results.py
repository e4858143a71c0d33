"""What was measured, round by round."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from benchmarks.parameters import Parameters


@dataclass(frozen=True)
class Summary:
    median: float
    spread: float
    """Half the distance from the smallest to the largest, as a share of the median."""


class Results:
    """Figures of every candidate, one for each round."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.failures: dict[str, dict[str, str]] = defaultdict(dict)
        """By candidate and measure: why there are no figures."""
        self._figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            self._figures[name][key].append(value)

    def fail(self, name: str, measure: str, reason: str) -> None:
        self.failures[name][measure] = reason

    def has_failed(self, name: str, measure: str) -> bool:
        return measure in self.failures[name]

    def summary(self, name: str, key: str) -> Summary | None:
        values = self._figures[name][key]
        if not values:
            return None
        median = statistics.median(values)
        return Summary(median, (max(values) - min(values)) / 2 / median if median else 0.0)

    def ratio(self, key: str, ours: str, theirs: str) -> float | None:
        """Ours over theirs: the median over the rounds, so that a slow moment of the machine,
        which slows both, does not count."""
        pairs = zip(self._figures[ours][key], self._figures[theirs][key], strict=False)
        ratios = [mine / other for mine, other in pairs if other]
        return statistics.median(ratios) if ratios else None

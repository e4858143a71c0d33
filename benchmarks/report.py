"""Reports of the results: a table and the bars for the terminal, a page and a plot for `docs/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from benchmarks import plot
from benchmarks.bars import BARS, OURS, Verdict
from benchmarks.contestants import Contestant
from benchmarks.figures import Figure, figures, lead, rounded
from benchmarks.machine import Facts
from benchmarks.measures import MEASURES
from benchmarks.results import Results
from benchmarks.workshop import HERE
from scripts.bake import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "benchmarks.svg"
NOTES = HERE / "notes.md"
"""Written by hand; the page ends with them."""

_MARKS = {True: "kept", False: "MISSED", None: "–"}


def table(results: Results, chosen: Sequence[Contestant]) -> str:
    """Medians, their spread, and how many times better ours is."""
    rows = [["", *(one.name for one in chosen)]]
    for figure in _measured(results, chosen):
        title = f"{figure.title}, {figure.unit}"
        rows.append([title, *(_cell(results, figure, one.name) for one in chosen)])
    failures = [
        f"{name}, {measure}: {reason}"
        for name, by_measure in results.failures.items()
        for measure, reason in by_measure.items()
    ]
    legend = "median ± half the range over the rounds, and how many times better ours is"
    return "\n".join([_aligned(rows), legend, *failures, ""])


def bars(results: Results) -> str:
    """Each bar, kept or missed."""
    verdicts = [bar.judge(results) for bar in BARS]
    return _aligned([*map(_verdict, verdicts)])


def publish(results: Results, chosen: Sequence[Contestant], facts: Facts) -> list[Path]:
    """Write the page and its plot."""
    PAGE.write_text(page(results, chosen, facts, NOTES.read_text()), encoding="utf-8")
    PICTURE.write_text(plot.svg(results, chosen), encoding="utf-8")
    return [PAGE, PICTURE]


def page(results: Results, chosen: Sequence[Contestant], facts: Facts, notes: str) -> str:
    """The page, as Markdown."""
    peers = [one for one in chosen if one.name != OURS]
    parameters = results.parameters
    measured = list(_measured(results, chosen))
    verdicts = [bar.judge(results) for bar in BARS]
    ratios = [["", *(one.title for one in peers)]]
    ratios += [row for figure in measured if any((row := _leads(results, figure, peers))[1:])]
    values = [["", *(one.title for one in chosen)]]
    values += [_values(results, figure, chosen) for figure in measured]
    return f"""# Benchmarks

Written by `make bench ARGS=--publish` on {date.today():%-d %B %Y}, {parameters.rounds} rounds.
Run it yourself: `make bench`, or `make bench ARGS=--quick` in less than four minutes.

For those who compare this template with its peers: how fast each is, and how it was measured.

The same raw client loads every candidate; server and client have a core each. A candidate is
restarted for every measure of every round, and each round begins with another candidate. Compare
the ratios: the absolute figures depend on this machine.

![Ours and its peers]({PICTURE.name})

## How many times better

Ours divided by the peer's, or the peer's divided by ours if less is better: above 1, ours is
better. Each figure is the median over the rounds.

{_markdown(ratios)}

## Promises

{_markdown([["", "promised", "measured"], *map(_verdict, verdicts)])}

## Absolute figures

Median ± half the range over the rounds.

{_markdown(values)}

## What is measured

{_listed((f"**{name}**", measure.__doc__ or "") for name, measure in MEASURES.items())}

## Candidates

{_listed((f"**{one.title}**", f"{one.settings}.") for one in chosen)}

## Machine and versions

{_listed((f"**{name}**", value) for name, value in facts.items())}

{notes}"""


def _measured(results: Results, chosen: Sequence[Contestant]) -> list[Figure]:
    return [
        figure
        for figure in figures(results.parameters)
        if any(results.summary(one.name, figure.key) for one in chosen)
    ]


def _cell(results: Results, figure: Figure, name: str) -> str:
    value = _value(results, figure, name)
    times = _times(results, figure, name) if name != OURS else ""
    return f"{value} {times}".strip()


def _value(results: Results, figure: Figure, name: str) -> str:
    summary = results.summary(name, figure.key)
    return f"{rounded(summary.median)} ±{summary.spread:.0%}" if summary else ""


def _times(results: Results, figure: Figure, name: str) -> str:
    times = lead(figure, results.ratio(figure.key, OURS, name))
    return f"{rounded(times)}×" if times else ""


def _leads(results: Results, figure: Figure, peers: Sequence[Contestant]) -> list[str]:
    return [figure.title, *(_times(results, figure, one.name) for one in peers)]


def _values(results: Results, figure: Figure, chosen: Sequence[Contestant]) -> list[str]:
    title = f"{figure.title}, {figure.unit}"
    return [title, *(_value(results, figure, one.name) for one in chosen)]


def _verdict(one: Verdict) -> list[str]:
    return [_MARKS[one.kept], one.promise, one.measured]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _listed(items: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"* {name}: {' '.join(words.split())}" for name, words in items)

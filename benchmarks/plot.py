"""The picture: bars as SVG, written by hand. It has its own background, for dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.bars import OURS
from benchmarks.contestants import Contestant
from benchmarks.figures import Figure, figures, rounded
from benchmarks.results import Results

SHOWN = ("broadcast_1000", "burst", "instances", "connects", "socket_kb", "calls")

_COLUMNS = 2
_PANEL = 440
_NAMES = 120
_BAR = 200
_LINE = 22
_TOP = 44
_MARGIN = 20
_OURS, _PEER, _INK, _GREY = "#0969da", "#c3ccd5", "#1f2328", "#656d76"


def svg(results: Results, chosen: Sequence[Contestant]) -> str:
    """A panel for each figure that is shown, ours in colour, beside each bar the value."""
    shown = [figure for figure in figures(results.parameters) if figure.key in SHOWN]
    panels = [(figure, values) for figure in shown if (values := _values(results, figure, chosen))]
    tall = _TOP + _LINE * max((len(values) for _, values in panels), default=0) + _MARGIN
    rows = -(-len(panels) // _COLUMNS)
    width, height = _COLUMNS * _PANEL + 2 * _MARGIN, rows * tall + 2 * _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        "<title>This template beside its peers</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for number, (figure, values) in enumerate(panels):
        x = _MARGIN + number % _COLUMNS * _PANEL
        y = _MARGIN + number // _COLUMNS * tall
        lines += _panel(figure, values, x, y)
    return "\n".join([*lines, "</svg>", ""])


def _values(
    results: Results, figure: Figure, chosen: Sequence[Contestant]
) -> list[tuple[Contestant, float]]:
    """Best first."""
    found = [
        (one, summary.median)
        for one in chosen
        if (summary := results.summary(one.name, figure.key)) is not None
    ]
    return sorted(found, key=lambda pair: pair[1], reverse=figure.more_is_better)


def _panel(
    figure: Figure, values: Sequence[tuple[Contestant, float]], x: int, y: int
) -> Iterator[str]:
    better = "more" if figure.more_is_better else "less"
    title = escape(f"{figure.title[0].upper()}{figure.title[1:]}, {figure.unit}")
    yield f'<text x="{x}" y="{y + 18}" font-weight="600" fill="{_INK}">{title}</text>'
    yield f'<text x="{x}" y="{y + 34}" font-size="11" fill="{_GREY}">{better} is better</text>'
    most = max(value for _, value in values)
    for number, (one, value) in enumerate(values):
        top = y + _TOP + number * _LINE
        ours = one.name == OURS
        weight, fill = ("600", _OURS) if ours else ("400", _PEER)
        long = max(2, round(value / most * _BAR))
        base = top + 13
        yield (
            f'<text x="{x + _NAMES - 8}" y="{base}" text-anchor="end" font-weight="{weight}" '
            f'fill="{_INK}">{escape(one.title)}</text>'
        )
        yield f'<rect x="{x + _NAMES}" y="{top}" width="{long}" height="16" rx="2" fill="{fill}"/>'
        yield (
            f'<text x="{x + _NAMES + long + 6}" y="{base}" font-weight="{weight}" '
            f'fill="{_INK}">{rounded(value)}</text>'
        )

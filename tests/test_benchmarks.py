"""The bench runs, and its report says what was measured. How fast it was is no matter here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import plot, report
from benchmarks.bars import BARS, Above, Ahead, Within
from benchmarks.contestants import CONTESTANTS, Detached, Floor, Gateway, Ours, Stage, Tutorial
from benchmarks.figures import figures, lead, rounded
from benchmarks.measures import MEASURES
from benchmarks.parameters import QUICK
from benchmarks.results import Results
from tests import servers

TINY = replace(
    QUICK,
    rounds=1,
    sizes=(120,),
    audience=120,
    seconds=0.1,
    settle=0.1,
    idle=20,
    crowd=150,
    starts=1,
)


@pytest.fixture(scope="module")
def stage(redis_server: servers.Server, rabbitmq_server: servers.Server) -> Iterator[Stage]:
    """Candidates in Python run in the environment of the tests, which has all they need."""
    stage = Stage(redis=redis_server, rabbitmq=rabbitmq_server)
    stage.workshop.project_python = stage.workshop.peers_python = Path(sys.executable)
    yield stage
    stage.close()


@pytest.mark.parametrize("measure", ["broadcast", "connect", "users", "instances", "lag", "start"])
def test_ours_can_be_measured(stage: Stage, measure: str) -> None:
    found = MEASURES[measure](Ours(stage), TINY)
    assert set(found) <= {figure.key for figure in figures(TINY)}
    differences = ("socket_kb", "start_s", "connect_cpu_us")
    """Of coarse clocks and of memory: with so few sockets they may be 0 or less."""
    assert all(value > 0 for name, value in found.items() if name not in differences)


@pytest.mark.parametrize("kind", [Floor, Tutorial])
def test_a_peer_can_be_measured(stage: Stage, kind: type[Floor | Tutorial]) -> None:
    found = MEASURES["broadcast"](kind(stage), TINY)
    assert found["broadcast_120"] > 0
    assert found["last_p50_ms"] <= found["last_p99_ms"]


def test_the_bare_handshake_can_be_measured(stage: Stage) -> None:
    assert MEASURES["connect"](Detached(stage), TINY)["connects"] > 0


def test_calls_can_be_measured(stage: Stage, nuropb_python: Path | None) -> None:
    if nuropb_python is None:
        pytest.skip("there is no Python that nuropb runs on")
    stage.workshop.gateway_python = nuropb_python
    found = MEASURES["mesh"](Ours(stage), TINY)
    assert found["calls"] > 0
    assert found["call_p50_ms"] <= found["call_p99_ms"]


# The report


def results(**rounds: dict[str, list[float]]) -> Results:
    """Figures of each candidate, one for each round."""
    given = Results(QUICK)
    for name, by_key in rounds.items():
        for key, values in by_key.items():
            for value in values:
                given.add(name, {key: value})
    return given


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    given = results(ours={"burst": [30, 20, 90]}, ws={"burst": [10, 10, 10]})
    assert given.ratio("burst", "ours", "ws") == 3
    summary = given.summary("ours", "burst")
    assert summary is not None
    assert summary.median == 30
    assert summary.spread == pytest.approx(35 / 30)


def test_above_one_ours_is_ahead_whichever_way_a_figure_counts() -> None:
    by_key = {figure.key: figure for figure in figures(QUICK)}
    assert lead(by_key["burst"], 4.0) == 4.0
    assert lead(by_key["socket_kb"], 0.25) == 4.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.12"), (9.876, "9.88"), (12.34, "12.3"), (123.4, "123"), (123_456, "123,000")],
)
def test_figures_are_rounded_to_what_can_be_known(value: float, shown: str) -> None:
    assert rounded(value) == shown


def test_a_bar_is_kept_or_missed() -> None:
    given = results(
        ours={"burst": [30], "socket_kb": [10], "connect_cpu_us": [400]},
        ws={"burst": [20], "socket_kb": [9], "connect_cpu_us": [300]},
    )
    kept = {
        Ahead("burst", "ws", 1.5): True,
        Ahead("burst", "ws", 1.6): False,
        Ahead("socket_kb", "ws", 0.8): True,
        Ahead("socket_kb", "ws", 1): False,
        Ahead("burst", "floor", 1): None,
        Within("burst", 30): True,
        Within("burst", 31): False,
        Within("socket_kb", 10): True,
        Within("socket_kb", 9): False,
        Above("connect_cpu_us", 100, "ws"): True,
        Above("connect_cpu_us", 99, "ws"): False,
    }
    assert {bar: bar.judge(given).kept for bar in kept} == kept


def test_every_bar_speaks_of_a_figure_and_a_candidate() -> None:
    names = {one.name for one in CONTESTANTS}
    for bar in BARS:
        assert bar.judge(results()).kept is None
        assert getattr(bar, "peer", "ours") in names


def test_what_was_measured_is_in_the_table_on_the_page_and_in_the_picture(stage: Stage) -> None:
    given = results(ours={"connects": [3_000]}, nuropb_gw={"connects": [2_000]})
    given.fail("nuropb_gw", "mesh", "it has ended")
    chosen = [Ours(stage), Gateway(stage)]
    table = report.table(given, chosen)
    assert "connecting, sockets/s  3,000 ±0%  2,000 ±0% 1.50×" in table
    assert "nuropb_gw, mesh: it has ended" in table
    assert "kept" in report.bars(given)

    page = report.page(given, chosen, {"Machine": "two cores"}, "## Notes\n")
    assert "| connecting | 1.50× |" in page
    assert "| kept | connecting: ≥ 0.8 × nuropb_gw | 1.50 × |" in page
    assert "* **Machine**: two cores\n" in page
    assert page.endswith("## Notes\n")

    picture = "".join(ElementTree.fromstring(plot.svg(given, chosen)).itertext())
    assert "Connecting, sockets/s" in picture
    assert "3,000" in picture

"""The version of the engine is where operators look for it."""

from __future__ import annotations

from bff import __version__
from bff.cli import main
from bff.testing import RunningBff
from click.testing import CliRunner


def test_the_command_prints_it() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"bff, version {__version__}\n"


async def test_the_metrics_hold_it(bff: RunningBff) -> None:
    async with bff.http() as http:
        metrics = (await http.get("/metrics")).text
    assert f'bff_info{{version="{__version__}"}} 1.0' in metrics

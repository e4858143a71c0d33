"""`bff --version`, and the help of every command."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from bff.cli import main
from bff.version import __version__
from click.testing import CliRunner


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    yield before
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name)


@pytest.mark.parametrize("command", list(commands(main)), ids=" ".join)
def test_help_says_what_a_command_does_and_is_not_cut_off(command: tuple[str, ...]) -> None:
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*command, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "..." not in shown.output.replace("[ARGS]...", "").replace("]...", "").replace(
        " ID...", ""
    ), shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())


def test_the_version_is_that_of_the_engine() -> None:
    shown = CliRunner().invoke(main, ["--version"])
    assert shown.output == f"bff, version {__version__}\n"

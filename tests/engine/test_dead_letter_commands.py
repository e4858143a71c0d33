"""The commands of `bff dead-letters` act on the letters that were named, and only when told to.

`mesh/test_dead_letters.py` has the same commands with RabbitMQ.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from bff import dead_letters
from bff.mesh.connect import DeadLetter
from bff.mesh.transport import ConnectionLost
from bff.settings import Settings
from click.testing import CliRunner

Run = Callable[..., str]


def letter(id_: str, handler: str, reason: str, age: dt.timedelta) -> DeadLetter:
    died_at, message = dt.datetime.now(dt.UTC) - age, cast(Any, None)
    body = b"\xff " + id_.encode()
    return DeadLetter(id_, handler, f"t.{id_}", reason, died_at, body, "kept", message)


class Letters:
    """Stands in for the queues in RabbitMQ. Handler `gone` has no queue."""

    def __init__(self) -> None:
        day, minute = dt.timedelta(days=1), dt.timedelta(minutes=1)
        letters = (
            letter("a", "bill", "rejected", 30 * minute),
            letter("b", "bill", "maxlen", 30 * 60 * minute),
            letter("c", "ship", "rejected", 30 * day),
            letter("d", "gone", "delivery_limit", 3 * day),
        )
        self.kept = {one.id: one for one in letters}
        self.replayed: list[str] = []
        self.is_open = False

    async def read(self) -> list[DeadLetter]:
        assert self.is_open
        return list(self.kept.values())

    async def replay(self, letter: DeadLetter) -> bool:
        if letter.handler == "gone":
            return False
        self.replayed.append(letter.id)
        del self.kept[letter.id]
        return True

    async def drop(self, letter: DeadLetter) -> None:
        del self.kept[letter.id]


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Letters:
    letters = Letters()

    @asynccontextmanager
    async def opened(_: Settings) -> AsyncIterator[Letters]:
        letters.is_open = True
        yield letters
        letters.is_open = False

    monkeypatch.setattr(dead_letters, "open_dead_letters", opened)
    return letters


@pytest.fixture
def bff(settings: Settings) -> Run:
    """Runs one of the commands and returns its output."""
    commands = {command.name: command for command in dead_letters.COMMANDS}

    def run(name: str, *arguments: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(commands[name], arguments, obj=lambda: settings)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


def listed(output: str) -> str:
    """The ids of the letters, which are one character long, in the order of the lines."""
    return "".join(line[0] for line in output.splitlines() if line[1:3] == "  " and line[0] != " ")


FILTERS = {
    "": "abcd",
    "a c": "ac",
    "x": "",
    "--handler bill": "ab",
    "--handler nobody": "",
    "--reason rejected": "ac",
    "--handler bill --reason rejected": "a",
    "c --handler bill": "",
    "--older-than 1h": "bcd",
    "--older-than 2d": "cd",
    "--older-than 29m --newer-than 31m": "a",
    "--newer-than 31h": "ab",
    "--newer-than 29h": "a",
    "--newer-than 29d --older-than 3h": "bd",
}


@pytest.mark.parametrize("name", ["list", "show", "replay", "drop"])
@pytest.mark.parametrize("filters", FILTERS)
def test_a_command_is_about_the_letters_that_fit_every_filter(
    letters: Letters, bff: Run, name: str, filters: str
) -> None:
    output = bff(name, *filters.split())
    assert listed(output) == FILTERS[filters]
    count = f"{len(FILTERS[filters])} dead letters"
    would = f"; --yes to {name} them" if name in ("replay", "drop") else ""
    assert output.splitlines()[-1] == f"{count}{would}"
    assert (len(letters.kept), letters.replayed) == (4, []), "nothing is done without --yes"
    assert not letters.is_open


def test_with_yes_the_named_letters_are_replayed_or_dropped_and_nothing_else_is(
    letters: Letters, bff: Run
) -> None:
    at = f"{letters.kept['a'].died_at:%Y-%m-%d %H:%M:%S}Z"
    assert bff("show", "a").splitlines() == [
        f"a  {at}  bill  rejected  t.a",
        "  � a",
        "1 dead letters",
    ]
    output = bff("replay", "--yes", "a", "d").splitlines()
    assert letters.replayed == ["a"]
    assert set(letters.kept) == {"b", "c", "d"}
    assert output[1] == "  replayed"
    assert output[3].startswith("  kept: its handler has no queue")
    assert output[4] == "2 dead letters"
    output = bff("drop", "--yes", "--reason", "delivery_limit").splitlines()
    assert output[1:] == ["  dropped", "1 dead letters"]
    assert (set(letters.kept), letters.replayed) == ({"b", "c"}, ["a"])


@pytest.mark.parametrize("age", ["soon", "5", "m", "5w", "1.5h", "-1h", "5m ", "1000000m", ""])
def test_an_age_that_is_none_is_refused(letters: Letters, bff: Run, age: str) -> None:
    for option in ("--older-than", "--newer-than"):
        refused = bff("drop", "--yes", option, age, exit_code=2)
        assert "use minutes, hours or days" in refused
    assert len(letters.kept) == 4


@pytest.mark.parametrize("error", [ConnectionLost("away"), ValueError("away")])
def test_a_broker_that_is_away_is_one_sentence(
    letters: Letters, bff: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def read() -> list[DeadLetter]:
        raise error

    monkeypatch.setattr(letters, "read", read)
    assert bff("list", exit_code=1) == "Error: AMQP_URL: away\n"

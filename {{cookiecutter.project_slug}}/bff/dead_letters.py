"""The commands of `bff dead-letters`."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Awaitable, Callable
from typing import Any

import click

from bff.mesh.connect import DeadLetter, DeadLetterQueue, open_dead_letters
from bff.mesh.transport import ConnectionLost
from bff.settings import LoadSettings, Settings


def _age(_: click.Context, __: click.Parameter, value: str | None) -> dt.timedelta | None:
    match = re.fullmatch(r"(\d{1,6})([mhd])", value or "")
    if value is not None and match is None:
        raise click.BadParameter("use minutes, hours or days: 30m, 2h, 7d")
    units = {"m": "minutes", "h": "hours", "d": "days"}
    return dt.timedelta(**{units[match[2]]: int(match[1])}) if match else None


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("ids", nargs=-1),
        click.option("--handler", help="Only events of this handler."),
        click.option(
            "--reason", help="Only: rejected (by the handler), maxlen (overflow) or delivery_limit."
        ),
        click.option("--older-than", callback=_age, help="Only older ones: 30m, 2h, 7d."),
        click.option("--newer-than", callback=_age, help="Only newer ones: 30m, 2h, 7d."),
    ):
        command = option(command)
    return command


_yes = click.option(
    "--dry-run/--yes", default=True, show_default="--dry-run", help="Only say what would be done."
)


@click.command("list")
@click.pass_obj
@_filters
def list_letters(load_settings: LoadSettings, **filters: Any) -> None:
    """List dead letters, the oldest first.

    For each: id, time, handler, reason, topic.
    """
    asyncio.run(_each_letter(load_settings(), filters, None))


@click.command("show")
@click.pass_obj
@_filters
def show(load_settings: LoadSettings, **filters: Any) -> None:
    """Print dead letters with their bodies, which may hold personal data."""

    async def show_body(_: DeadLetterQueue, letter: DeadLetter) -> str:
        return letter.body.decode(errors="replace")

    asyncio.run(_each_letter(load_settings(), filters, show_body))


@click.command("replay")
@click.pass_obj
@_filters
@_yes
def replay(load_settings: LoadSettings, dry_run: bool, **filters: Any) -> None:
    """Deliver dead letters again, each to its own handler only."""

    async def replay_one(queue: DeadLetterQueue, letter: DeadLetter) -> str:
        done = await queue.replay(letter)
        return "replayed" if done else "kept: its handler has no queue (renamed or never started)"

    asyncio.run(
        _each_letter(
            load_settings(), filters, None if dry_run else replay_one, "replay" if dry_run else ""
        )
    )


@click.command("drop")
@click.pass_obj
@_filters
@_yes
def drop(load_settings: LoadSettings, dry_run: bool, **filters: Any) -> None:
    """Delete dead letters."""

    async def drop_one(queue: DeadLetterQueue, letter: DeadLetter) -> str:
        await queue.drop(letter)
        return "dropped"

    asyncio.run(
        _each_letter(
            load_settings(), filters, None if dry_run else drop_one, "drop" if dry_run else ""
        )
    )


async def _each_letter(
    settings: Settings,
    filters: dict[str, Any],
    act: Callable[[DeadLetterQueue, DeadLetter], Awaitable[str]] | None,
    would: str = "",
) -> None:
    now = dt.datetime.now(dt.UTC)
    try:
        async with open_dead_letters(settings) as queue:
            letters = [one for one in await queue.read() if _selected(one, filters, now)]
            for letter in letters:
                facts = (letter.handler, letter.reason, letter.topic)
                click.echo(f"{letter.id}  {letter.died_at:%Y-%m-%d %H:%M:%SZ}  {'  '.join(facts)}")
                if act is not None:
                    click.echo(f"  {await act(queue, letter)}")
    except (ConnectionLost, ValueError) as error:
        raise click.ClickException(f"AMQP_URL: {error}") from None
    click.echo(f"{len(letters)} dead letters" + (f"; --yes to {would} them" if would else ""))


def _selected(letter: DeadLetter, filters: dict[str, Any], now: dt.datetime) -> bool:
    age = now - letter.died_at
    return (
        (not filters["ids"] or letter.id in filters["ids"])
        and filters["handler"] in (None, letter.handler)
        and filters["reason"] in (None, letter.reason)
        and (filters["older_than"] is None or age > filters["older_than"])
        and (filters["newer_than"] is None or age < filters["newer_than"])
    )


COMMANDS = (list_letters, show, replay, drop)

"""`bff new feature`."""

from __future__ import annotations

import click

from bff.scaffold.feature import Refused, write
from bff.scaffold.text import Feature


def _names(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.group()
def new() -> None:
    """Write new code into this project."""


@new.command()
@click.argument("name")
@click.option(
    "--expose", default="", callback=_names, help="Methods of the mesh service NAME for browsers."
)
@click.option("--method", default="", callback=_names, help="Methods that this BFF answers.")
@click.option("--topic", default="", callback=_names, help="Topics: NAME.<topic>.")
@click.option("--event", default="", callback=_names, help="Mesh events NAME.*.<event> for users.")
@click.option("--table", is_flag=True, help="A table with its migration.")
def feature(
    name: str,
    expose: tuple[str, ...],
    method: tuple[str, ...],
    topic: tuple[str, ...],
    event: tuple[str, ...],
    table: bool,
) -> None:
    """Write app/routes/NAME.py and its test, and list it.

    The list is in app/routes/__init__.py. Options take several names, separated by commas. What
    exists is refused, and then nothing is changed.

    Example: bff new feature invoices --expose list,get --topic latest --event paid --table
    """
    try:
        written = write(Feature(name, expose, method, topic, event, table))
    except Refused as refused:
        raise click.ClickException(str(refused)) from None
    for path in written:
        click.echo(path)
    click.echo("Now: make lint test" + (", then make migrate" if table else ""))

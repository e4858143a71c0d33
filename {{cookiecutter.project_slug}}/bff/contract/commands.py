"""`bff contract` and `bff types`."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import click

from bff.contract.compare import compare
from bff.contract.documents import Documents
from bff.contract.typescript import typescript
from bff.factory import FACTORY, load
from bff.settings import LoadSettings


@click.command()
@click.pass_obj
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the files are stale.")
@click.option(
    "--folder",
    default="contract",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the documents are.",
)
def contract(load_settings: LoadSettings, check: bool, folder: Path) -> None:
    """Write asyncapi.json and openapi.json.

    Prints what breaks clients that were written against the files as they were, and what is not
    declared.
    """
    documents = _documents(load_settings)
    stale = False
    for name, document in (
        ("asyncapi.json", documents.asyncapi()),
        ("openapi.json", documents.openapi()),
    ):
        path = folder / name
        before = _read(path)
        for line in compare(before, document) if before else ():
            click.echo(f"breaks old clients: {line}")
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        if before is None or path.read_text(encoding="utf-8") != text:
            stale = True
            if not check:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                click.echo(f"wrote {path}")
            else:
                click.echo(f"{path} is {'stale' if before else 'missing'}: run `bff contract`")
    for line in documents.contract().undeclared():
        click.echo(f"not declared: {line}")
    if check and stale:
        sys.exit(1)


@click.command()
@click.pass_obj
def types(load_settings: LoadSettings) -> None:
    """Print the types of the contract in TypeScript.

    `bff types > src/contract.d.ts`, then `new BffClient<Contract>()` in the page.
    """
    click.echo(typescript(_documents(load_settings).contract()), nl=False)


def _documents(load_settings: LoadSettings) -> Documents:
    """The documents of the app. They depend on no secret and on no server, so this works without
    an .env too, for example in CI: with the settings of .env.example."""
    os.environ.setdefault("JWT_SECRET", secrets.token_hex(32))
    settings = load_settings(".env" if Path(".env").exists() else ".env.example")
    documents: Documents = load(FACTORY)(settings).state.bff.documents
    return documents


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise click.ClickException(f"{path} is not JSON: {error}") from None
    return found


COMMANDS = (contract, types)

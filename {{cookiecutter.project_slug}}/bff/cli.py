"""`bff serve | dev | token | migrate | doctor`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

import click
from pydantic import ValidationError

from bff.auth.tokens import issue
from bff.db import migrate as migrations
from bff.doctor import diagnose
from bff.factory import FACTORY, SETTINGS, load
from bff.server.run import run
from bff.settings import Settings
from bff.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bff")
def main() -> None:
    """A backend-for-frontend: browsers on sockets, services on a mesh."""


def _settings() -> Settings:
    """The app's settings; what is wrong with them is said in words, one line each."""
    try:
        settings: Settings = load(SETTINGS)()
        return settings
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            message = problem["msg"].removeprefix("Value error, ")
            click.echo(f"{name}: {message}" if name else message, err=True)
        click.echo("Settings come from the environment and .env; see .env.example.", err=True)
        sys.exit(2)


_host = click.option("--host", default="127.0.0.1", show_default=True)
_port = click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))


@main.command()
@_host
@_port
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1))
def serve(host: str, port: int, workers: int) -> None:
    """Serve, as in production: settings as they are, no reloading."""
    settings = _settings()
    if workers > 1 and settings.embedded:
        raise click.UsageError("memory:// lives in one process: use --workers 1")
    _check_is_free(host, port)
    run(settings, host=host, port=port, workers=workers)


@main.command()
@_host
@_port
@click.option("--reload/--no-reload", default=True, help="Start anew when the code changes.")
def dev(host: str, port: int, reload: bool) -> None:
    """Serve for development: reloading, and a page at / to try things on."""
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ["DRAIN_SECONDS"] = "0"
    origins = (*_settings().allowed_origins, *_pages(port))
    os.environ["ALLOWED_ORIGINS"] = ",".join(dict.fromkeys(origins))
    settings = _settings()
    _check_is_free(host, port)
    if settings.development:
        click.echo(f"The page is at http://{host}:{port}/")
    run(settings, host=host, port=port, reload=reload)


@main.command()
@click.option("--user", required=True, help="The user id: the token's `sub`.")
@click.option("--scope", "scopes", multiple=True, help="May be given several times.")
@click.option("--minutes", default=60, show_default=True, type=click.IntRange(1))
def token(user: str, scopes: Sequence[str], minutes: int) -> None:
    """Print a token signed with JWT_SECRET."""
    settings = _settings()
    if settings.jwt_secret is None:
        raise click.UsageError("JWKS_URL is set: only the identity provider can make tokens")
    click.echo(issue(settings, user, scopes, lifetime=minutes * 60))


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    asyncio.run(migrations.upgrade(_settings()))
    click.echo("The database is up to date.")


@main.command()
def doctor() -> None:
    """Say what is reachable, what is misconfigured, and what a browser may call."""
    _settings()
    findings = asyncio.run(diagnose(load(FACTORY)().state.bff))
    for finding in findings:
        click.echo(str(finding))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _check_is_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        message = f"{host}:{port} cannot be used: {error.strerror}. Try another --port."
        raise click.ClickException(message) from None


def _pages(port: int) -> tuple[str, str]:
    return f"http://localhost:{port}", f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    main()

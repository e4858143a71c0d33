"""The command `bff`: serves and migrates the app, checks it, and writes its contract."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence

import click
from alembic.util import CommandError
from pydantic import ValidationError

from bff.auth.tokens import issue
from bff.contract.commands import COMMANDS as CONTRACT
from bff.db import migrate as migrations
from bff.db.database import UNAVAILABLE
from bff.db.histories import HISTORIES, History
from bff.dead_letters import COMMANDS as DEAD_LETTERS
from bff.doctor import diagnose
from bff.factory import FACTORY, SETTINGS, load
from bff.redis.client import why
from bff.scaffold.commands import new
from bff.server.run import run
from bff.settings import Settings
from bff.settings_list import list_settings, unknown_names
from bff.telemetry import logs
from bff.version import __version__

logger = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bff", help="Show the version of the engine and exit.")
@click.pass_context
def main(context: click.Context) -> None:
    """Backend-for-frontend: WebSockets to browsers, RabbitMQ to services."""
    context.obj = _settings


def _settings(env_file: str = ".env") -> Settings:
    """The app's settings. If they are invalid, print one line per problem and exit with 2."""
    try:
        settings: Settings = load(SETTINGS)(_env_file=env_file)
        return settings
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(part for part in problem["loc"] if isinstance(part, str)).upper()
            message = problem["msg"].removeprefix("Value error, ")
            click.echo(f"{name}: {message}" if name else message, err=True)
        click.echo("Set them in the environment or in .env; see .env.example.", err=True)
        sys.exit(2)


def _warn_about_names(settings: Settings) -> None:
    logs.configure(settings)
    for sentence in unknown_names(type(settings)):
        logger.warning("unknown setting", extra={"reason": sentence})


_host = click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
_port = click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to bind to; 0 for any free port.",
)


@main.command()
@_host
@_port
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Number of processes."
)
def serve(host: str, port: int, workers: int) -> None:
    """Serve in production."""
    settings = _settings()
    if workers > 1 and settings.embedded:
        raise click.UsageError("memory:// works within one process only: use --workers 1")
    _check_address(host, port)
    _warn_about_names(settings)
    run(settings, host=host, port=port, workers=workers)


@main.command()
@_host
@_port
@click.option(
    "--reload/--no-reload", default=True, show_default=True, help="Restart when the code changes."
)
def dev(host: str, port: int, reload: bool) -> None:
    """Serve for development, with reload and a page at /."""
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ["DRAIN_SECONDS"] = "0"
    origins = (*_settings().allowed_origins, *_local_origins(host, port))
    os.environ["ALLOWED_ORIGINS"] = ",".join(dict.fromkeys(origins))
    settings = _settings()
    if settings.development and "oidc_issuer" not in settings.model_fields_set:
        os.environ["OIDC_ISSUER"] = "memory://"
        settings = _settings()
    _check_address(host, port)
    _warn_about_names(settings)
    if settings.development:
        click.echo(f"Open http://{_in_url(host)}:{port}/")
    run(settings, host=host, port=port, reload=reload)


@main.command()
@click.option("--user", required=True, help="User id: the token's `sub`.")
@click.option("--scope", "scopes", multiple=True, help="A scope; may be repeated.")
@click.option(
    "--minutes",
    default=60,
    show_default=True,
    type=click.IntRange(1),
    help="Lifetime.",
)
def token(user: str, scopes: Sequence[str], minutes: int) -> None:
    """Print a token signed with JWT_SECRET."""
    settings = _settings()
    if settings.jwt_secret is None:
        raise click.UsageError("JWT_SECRET is not set: only the identity provider can sign tokens")
    click.echo(issue(settings, user, scopes, lifetime=minutes * 60))


def _target(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[History, str] | None:
    """`engine:REV` or `app:REV`."""
    if value is None:
        return None
    name, _, revision = value.partition(":")
    for history in HISTORIES:
        if history.name == name and revision:
            return history, revision
    raise click.BadParameter("name the history and the revision: engine:REV or app:REV")


@main.command()
@click.option(
    "--to",
    "target",
    callback=_target,
    metavar="HISTORY:REV",
    help="Upgrade or downgrade one history, `engine` or `app`, to a revision: an id, head, base, "
    "+1 or -1.",
)
@click.option("--sql", is_flag=True, help="Print the SQL, from the database's revisions on.")
@click.option("--current", is_flag=True, help="Print the revisions that the database has.")
def migrate(target: tuple[History, str] | None, sql: bool, current: bool) -> None:
    """Apply all database migrations, the engine's and the app's.

    Revisions that a newer version has applied are left as they are.
    """
    settings = _settings()
    if current and (target or sql):
        raise click.UsageError("--current changes nothing: use it alone")
    try:
        if current:
            for name, applied in asyncio.run(migrations.current(settings)).items():
                click.echo(f"{name}: {applied}")
        elif sql:
            targets = [target] if target else [(each, migrations.HEADS) for each in HISTORIES]
            click.echo(asyncio.run(migrations.sql(settings, targets)), nl=False)
        elif target:
            asyncio.run(migrations.migrate_to(settings, *target))
            click.echo(f"The {target[0].name}'s tables are at {target[1]}.")
        else:
            newer = asyncio.run(migrations.upgrade(settings))
            click.echo(f"Not changed: {newer}." if newer else "The database is up to date.")
    except CommandError as error:
        raise click.ClickException(str(error)) from None
    except UNAVAILABLE as error:
        raise click.ClickException(f"database unavailable: {why(error)}") from None


@main.command("settings")
def show_settings() -> None:
    """Print all settings, without secrets.

    For each: its value, where it comes from (environment, .env or default), and its explanation.
    """
    for setting in list_settings(_settings()):
        click.echo(f"{setting}\n")


@main.command()
def doctor() -> None:
    """Check servers and settings, list what browsers may call.

    Exits with 1 if a check fails.
    """
    settings = _settings()
    for sentence in unknown_names(type(settings)):
        click.echo(f"warn {sentence}")
    findings = asyncio.run(diagnose(load(FACTORY)().state.bff))
    for finding in findings:
        click.echo(str(finding))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@main.group("dead-letters")
def dead_letters() -> None:
    """List, replay or delete mesh events that were not handled."""


for _command in DEAD_LETTERS:
    dead_letters.add_command(_command)
for _command in CONTRACT:
    main.add_command(_command)
main.add_command(new)


def _check_address(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Not listening: a proxy would connect to it, and be reset at the end of this block.
            probe.bind((host, port))
    except OSError as error:
        message = f"cannot bind to {host} port {port}: {error.strerror}. Try another --port."
        raise click.ClickException(message) from None


def _local_origins(host: str, port: int) -> list[str]:
    """The origins of the development page, by the names that browsers may use for this machine."""
    if not port:
        return []  # the system chooses the port
    hosts = ["localhost", "127.0.0.1", "[::1]"]
    if host not in ("::", "0.0.0.0"):  # noqa: S104
        hosts.append(_in_url(host))
    return [f"http://{name}:{port}" for name in dict.fromkeys(hosts)]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()

"""The commands of `bff`: what they check, and what they do with their options."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bff import cli
from bff.auth.tokens import TokenVerifier
from bff.cli import _check_address, main
from bff.db import migrate
from bff.doctor import Finding
from bff.settings import Settings
from click.testing import CliRunner, Result
from jose import jwt

SECRET = "f3b8e1d94c7a60259ad1c8e47b3f605d"
SET_BY_DEV = ("LOG_FORMAT", "DRAIN_SECONDS", "ALLOWED_ORIGINS", "OIDC_ISSUER")
Bff = Callable[..., Result]


class Served:
    """What `bff` was about to serve."""

    def __init__(self) -> None:
        self.settings: Settings
        self.options: dict[str, Any] = {}

    def __call__(self, settings: Settings, **options: Any) -> None:
        self.settings, self.options = settings, options


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served()
    monkeypatch.setattr(cli, "run", served)
    return served


@pytest.fixture
def bff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bff]:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    good = {"ENVIRONMENT": "test", "JWT_SECRET": SECRET}
    urls = {"REDIS_URL": "memory://", "AMQP_URL": "memory://"}

    def run(command: str, exit_code: int = 0, **changes: str) -> Result:
        env = {**dict.fromkeys(SET_BY_DEV), **good, **urls, **changes}
        result = CliRunner(env=env).invoke(main, command.split())
        assert result.exit_code == exit_code, result.output
        return result

    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    yield run
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_port_in_use_is_refused_with_a_sentence(bff: Bff, served: Served, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = bff(f"{command} --port {port}", exit_code=1).output
    assert f"cannot bind to 127.0.0.1 port {port}" in refused
    assert "Try another --port" in refused
    assert served.options == {}


def test_a_free_port_is_not_listened_on_before_the_app_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a rolling update nginx would send it requests, which the end of the check would reset."""

    def listen(*_: object) -> None:
        raise AssertionError("it listens")

    with socket.create_server(("127.0.0.1", 0)) as before:
        address = before.getsockname()
        with socket.create_connection(address):
            before.accept()[0].close()
    monkeypatch.setattr(socket.socket, "listen", listen)
    _check_address("127.0.0.1", 0)
    _check_address(*address)  # its last connection is in TIME_WAIT for a minute


def test_serve_takes_its_options_and_shares_no_server_inside_one_process(
    bff: Bff, served: Served
) -> None:
    bff("serve --host 127.0.0.1 --port 0 --workers 1")
    assert served.options == {"host": "127.0.0.1", "port": 0, "workers": 1}
    urls = {"REDIS_URL": "redis://localhost", "AMQP_URL": "amqp://localhost"}
    bff("serve --port 0 --workers 2", **urls)
    assert served.options.pop("workers") == 2
    for name in urls:
        refused = bff("serve --port 0 --workers 2", 2, **urls | {name: "memory://"})
        assert "--workers 1" in refused.output
    assert "workers" not in served.options


@pytest.mark.parametrize("command", ["serve --port 0", "dev --port 0", "doctor"])
def test_misspelt_settings_are_told_before_anything_else(
    bff: Bff, served: Served, tmp_path: Path, command: str
) -> None:
    (tmp_path / ".env").write_text("ALLOWED_ORIGIN=https://a.invalid\n")
    output = bff(command, exit_code=int(command == "doctor")).output
    assert "ALLOWED_ORIGIN in .env is not a setting" in output.splitlines()[0]


ALL = {f"http://{host}:8123" for host in ("localhost", "127.0.0.1", "[::1]")}
ORIGINS = {
    "127.0.0.1": ALL,
    "0.0.0.0": ALL,
    "::": ALL,
    "::1": ALL,
    "shop.invalid": {*ALL, "http://shop.invalid:8123"},
    "fd00::1": {*ALL, "http://[fd00::1]:8123"},
}


@pytest.mark.parametrize("host", ORIGINS)
def test_dev_allows_the_page_by_each_name_of_the_machine(
    bff: Bff, served: Served, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(cli, "_check_address", lambda *_: None)
    own = "https://shop.invalid"
    bff(f"dev --host {host} --port 8123", ALLOWED_ORIGINS=f"{own},http://localhost:8123")
    allowed = served.settings.allowed_origins
    assert allowed[0] == own
    assert sorted(allowed) == sorted({own, *ORIGINS[host]})
    bff(f"dev --host {host} --port 0")
    assert served.settings.allowed_origins == ()


def test_dev_serves_a_page_with_reload_without_draining_and_logs_text(
    bff: Bff, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    bff("dev --port 0")
    assert served.options == {"host": "127.0.0.1", "port": 0, "reload": True}
    assert (served.settings.drain_seconds, served.settings.log_format) == (0, "text")
    bff("dev --port 0 --no-reload", LOG_FORMAT="json", DRAIN_SECONDS="30")
    assert served.options["reload"] is False
    assert (served.settings.drain_seconds, served.settings.log_format) == (0, "json")
    monkeypatch.setattr(cli, "_check_address", lambda *_: None)
    for host, address in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        shown = bff(f"dev --host {host} --port 8123", ENVIRONMENT="development")
        assert f"Open http://{address}:8123/\n" in shown.output
        assert served.settings.oidc_issuer == "memory://"
    bff("dev --port 8123", ENVIRONMENT="development", OIDC_ISSUER="")
    assert served.settings.oidc_issuer is None, "what is set is kept"
    assert "Open" not in bff("dev --port 8123").output
    assert served.settings.oidc_issuer is None


async def test_a_printed_token_signs_in_for_its_time(bff: Bff) -> None:
    verifier = TokenVerifier(Settings(_env_file=None, environment="test", jwt_secret=SECRET))
    for options, scopes, seconds in (
        ("--scope admin --scope orders --minutes 90", {"admin", "orders"}, 5400),
        ("", set[str](), 3600),
    ):
        token = bff(f"token --user alice {options}").output.strip()
        caller = await verifier.verify(token)
        assert (caller.user_id, set(caller.scopes)) == ("alice", scopes)
        claims = jwt.get_unverified_claims(token)
        assert claims["exp"] - claims["iat"] == seconds
    keys = {"JWT_SECRET": "", "JWKS_URL": "https://id.invalid/keys", "JWT_ALGORITHMS": "RS256"}
    assert "JWT_SECRET is not set" in bff("token --user alice", 2, **keys).output


def test_migrations_are_applied_shown_and_undone(bff: Bff, monkeypatch: pytest.MonkeyPatch) -> None:
    database = {"DATABASE_URL": "sqlite+aiosqlite:///here.sqlite3"}
    assert "engine: none (pending)\n" in bff("migrate --current", **database).output
    printed = bff("migrate --sql", **database).output
    assert "-- engine: from base to heads" in printed
    assert "-- app: from base to heads" in printed
    only = bff("migrate --sql --to engine:head", **database).output
    assert "-- engine: from base to head\n" in only
    assert "-- app:" not in only
    assert "none (pending)" in bff("migrate --current", **database).output, "nothing was applied"
    assert bff("migrate", **database).output == "The database is up to date.\n"
    assert bff("migrate --current", **database).output.count(" (head)\n") == 2
    undone = bff("migrate --to engine:base", **database).output
    assert undone == "The engine's tables are at base.\n"
    current = bff("migrate --current", **database).output
    assert "engine: none (pending)\n" in current
    assert current.count(" (head)\n") == 1

    async def newer(_: Settings) -> str:
        return "the engine's tables are newer than this code"

    monkeypatch.setattr(migrate, "upgrade", newer)
    assert bff("migrate").output == "Not changed: the engine's tables are newer than this code.\n"


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        ("--to engine", 2, "name the history and the revision"),
        ("--to engine:", 2, "name the history and the revision"),
        ("--to shop:head", 2, "name the history and the revision"),
        ("--to engine:none-such", 1, "none-such"),
        ("--current --sql", 2, "use it alone"),
        ("--current --to engine:head", 2, "use it alone"),
    ],
)
def test_a_migration_that_cannot_be_is_one_sentence(
    bff: Bff, options: str, exit_code: int, words: str
) -> None:
    output = bff(f"migrate {options}", exit_code).output
    assert words in output
    assert "Traceback" not in output
    away = bff("migrate", 1, DATABASE_URL="postgresql+asyncpg://127.0.0.1:1/shop").output
    assert away.startswith("Error: database unavailable: ")


def test_settings_are_printed_and_passed_on_to_the_commands_of_other_modules(bff: Bff) -> None:
    lines = bff("settings", APP_NAME="shop").output.split("\n\n")
    assert lines[0].startswith("APP_NAME=shop  (environment)\n    Prefix of ")
    assert lines[-1] == ""
    assert "AMQP_URL: memory:// keeps its dead letters" in bff("dead-letters list", 1).output


@pytest.mark.parametrize(
    ("findings", "exit_code"),
    [
        ([Finding(True, "fine"), Finding(True, "look", warning=True)], 0),
        ([Finding(True, "fine"), Finding(False, "broken")], 1),
    ],
)
def test_doctor_fails_if_a_check_fails(
    bff: Bff, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], exit_code: int
) -> None:
    async def diagnose(_: object) -> list[Finding]:
        return findings

    monkeypatch.setattr(cli, "diagnose", diagnose)
    marks = {"fine": "ok  ", "look": "warn", "broken": "BAD "}
    expected = [f"{marks[one.text]} {one.text}" for one in findings]
    assert bff("doctor", exit_code).output.splitlines() == expected

"""Settings that would fail later are refused at once: one sentence that names the setting, exit
code 2, no traceback. What is unusual but valid is accepted."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from bff.auth.origins import Origins
from bff.cli import main
from bff.db.database import make_engine
from bff.redis.client import create_client
from bff.setting_types import secret_fault, split_url
from bff.settings import Settings
from bff.settings_list import unknown_names
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

PROPERTY = hypothesis_settings(derandomize=True, deadline=None, max_examples=150)
GOOD = {
    "ENVIRONMENT": "production",
    "JWT_SECRET": secrets.token_hex(32),
    "JWT_ISSUER": "https://id.invalid",
    "ALLOWED_ORIGINS": "https://app.invalid",
}
JWKS = {"JWT_SECRET": "", "JWT_ALGORITHMS": "RS256"}
OIDC = {
    "OIDC_ISSUER": "https://id.invalid",
    "OIDC_CLIENT_ID": "bff",
    "OIDC_CLIENT_SECRET": secrets.token_hex(32),
}

REFUSED: dict[str, dict[str, str]] = {
    "JWKS_URL is no URL": JWKS | {"JWKS_URL": "not-a-url"},
    "JWKS_URL without TLS": JWKS | {"JWKS_URL": "http://id.invalid/keys"},
    "JWKS_URL to this machine in name only": JWKS | {"JWKS_URL": "http://127.0.0.1.invalid/keys"},
    "JWKS_URL without TLS by address": JWKS | {"JWKS_URL": "http://10.0.0.1/keys"},
    "JWKS_URL is a file": JWKS | {"JWKS_URL": "file:///etc/keys.json"},
    "JWKS_URL without host": JWKS | {"JWKS_URL": "https:///keys"},
    "JWKS_URL with a port out of range": JWKS | {"JWKS_URL": "https://id.invalid:65536/keys"},
    "JWT_ISSUER missing": JWKS | {"JWKS_URL": "https://id.invalid/keys", "JWT_ISSUER": ""},
    "JWT_AUDIENCE of the mesh": {"JWT_AUDIENCE": "mesh"},
    "JWT_ALGORITHMS none": {"JWT_ALGORITHMS": "none"},
    "JWT_ALGORITHMS invented": {"JWT_ALGORITHMS": "HS257"},
    "JWT_SECRET asks to be changed": {"JWT_SECRET": "please-change-this-secret-in-production"},
    "JWT_SECRET is an example": {"JWT_SECRET": "this-is-an-Example-of-a-long-key-1987"},
    "JWT_SECRET is a password": {"JWT_SECRET": "my-super-long-PassWord-for-the-gateway"},
    "JWT_SECRET counts": {"JWT_SECRET": "0123456789ABCDEF0123456789ABCDEF.-"},
    "JWT_SECRET repeats itself": {"JWT_SECRET": "kX3fT8uW1zQ5" * 4},
    "JWT_SECRET is short": {"JWT_SECRET": secrets.token_hex(8)},
    "MESH_TOKEN_SECRET is a placeholder": {"MESH_TOKEN_SECRET": "change-me-" + "x9Kf3LqPw7" * 3},
    "MESH_TOKEN_SECRET is that of users": {"MESH_TOKEN_SECRET": GOOD["JWT_SECRET"]},
    "MESH_TOKEN_SECRET was that of users": dict.fromkeys(
        ("MESH_TOKEN_SECRET", "JWT_PREVIOUS_SECRET"), secrets.token_hex(32)
    ),
    "JWT_PREVIOUS_SECRET is weak": {"JWT_PREVIOUS_SECRET": "x" * 40},
    "JWT_PREVIOUS_SECRET alone": JWKS
    | {"JWKS_URL": "https://id.invalid/keys", "JWT_PREVIOUS_SECRET": secrets.token_hex(32)},
    "ALLOWED_ORIGINS with a wildcard": {"ALLOWED_ORIGINS": "https://*.example.com"},
    "ALLOWED_ORIGINS all": {"ALLOWED_ORIGINS": "*"},
    "ALLOWED_ORIGINS null": {"ALLOWED_ORIGINS": "null"},
    "ALLOWED_ORIGINS with a path": {"ALLOWED_ORIGINS": "https://a.invalid/app"},
    "ALLOWED_ORIGINS without scheme": {"ALLOWED_ORIGINS": "https://a.invalid,b.invalid"},
    "ALLOWED_ORIGINS with a port out of range": {"ALLOWED_ORIGINS": "https://a.invalid:70000"},
    "ALLOWED_ORIGINS with port 0": {"ALLOWED_ORIGINS": "https://a.invalid:0"},
    "ALLOWED_ORIGINS not ASCII": {"ALLOWED_ORIGINS": "https://bücher.invalid"},
    "ALLOWED_ORIGINS with a password": {"ALLOWED_ORIGINS": "https://ann:pa55@a.invalid"},
    "ALLOWED_ORIGINS without host": {"ALLOWED_ORIGINS": "https://"},
    "ALLOWED_ORIGINS with an address of the future": {"ALLOWED_ORIGINS": "http://[v1.a!]"},
    "ALLOWED_ORIGINS with an empty port": {"ALLOWED_ORIGINS": "https://a.invalid:"},
    "ALLOWED_ORIGINS with a query": {"ALLOWED_ORIGINS": "https://a.invalid?b"},
    "ALLOWED_ORIGINS of a socket": {"ALLOWED_ORIGINS": "wss://a.invalid"},
    "ALLOWED_ORIGINS with no scheme's name": {"ALLOWED_ORIGINS": "1a://a.invalid"},
    "ALLOWED_ORIGINS with no host's name": {"ALLOWED_ORIGINS": "https://a..invalid"},
    "ALLOWED_ORIGINS with half an address": {"ALLOWED_ORIGINS": "http://[::g]"},
    "REDIS_URL with port 0": {"REDIS_URL": "redis://h:0/0"},
    "REDIS_URL with an empty port": {"REDIS_URL": "redis://h:/0"},
    "REDIS_URL with two paths": {"REDIS_URL": "redis://h/0/1"},
    "REDIS_URL with # in the password": {"REDIS_URL": "redis://:p#w@h/0"},
    "REDIS_URL with a space": {"REDIS_URL": "redis://h/0 "},
    "REDIS_URL of sentinels without host": {"REDIS_URL": "redis+sentinel://:1/m"},
    "REDIS_URL of sentinels with no number": {"REDIS_URL": "redis+sentinel://h/m/x"},
    "REDIS_URL of sentinels with too much": {"REDIS_URL": "redis+sentinel://h/m/0/0"},
    "REDIS_URL of a cluster with a database": {"REDIS_URL": "redis+cluster://h/1"},
    "REDIS_URL of another scheme": {"REDIS_URL": "http://h"},
    "AMQP_URL with port 0": {"AMQP_URL": "amqp://h:0/"},
    "AMQP_URL with an empty label": {"AMQP_URL": "amqp://..é/"},
    "DATABASE_URL with an unknown option": {"DATABASE_URL": "postgresql+asyncpg://h/d?colour=red"},
    "DATABASE_URL of another driver": {"DATABASE_URL": "postgresql://h/d"},
    "DATABASE_URL with a number that is none": {
        "DATABASE_URL": "postgresql+asyncpg://h/d?prepared_statement_cache_size=many"
    },
    "JWKS_URL with a fragment": JWKS | {"JWKS_URL": "https://id.invalid/keys#a"},
    "JWT_ALGORITHMS empty": {"JWT_ALGORITHMS": ","},
    "JWT_ALGORITHMS of keys": {"JWT_ALGORITHMS": "HS256,RS256"},
    "JWT_ALGORITHMS of a secret": JWKS
    | {"JWKS_URL": "https://id.invalid/keys", "JWT_ALGORITHMS": "RS256,HS256"},
    "LEASE_SECONDS too short": {"LEASE_SECONDS": "9.9", "LEASE_RENEWAL_SECONDS": "5"},
    "REQUEST_TIMEOUT_SECONDS too long": {"REQUEST_TIMEOUT_SECONDS": "30.1"},
    "JWT_SECRET with too few characters": {"JWT_SECRET": "a1b2c3d4e" + "a1b2c3d4e"[::-1] * 3},
    "REDIS_URL with a port out of range": {"REDIS_URL": "redis://h:99999/0"},
    "REDIS_URL of a cluster likewise": {"REDIS_URL": "redis+cluster://a:1,b:99999"},
    "REDIS_URL with a port that is no number": {"REDIS_URL": "redis://h:port/0"},
    "REDIS_URL with a database that is no number": {"REDIS_URL": "redis://h/main"},
    "REDIS_URL with an unknown option": {"REDIS_URL": "redis://h/0?tls=yes"},
    "REDIS_URL with an option that does not fit": {"REDIS_URL": "redis://h/0?socket_timeout=long"},
    "REDIS_URL with a bracket in the password": {"REDIS_URL": "redis://:p[w@h/0"},
    "REDIS_URL with an option of TLS": {"REDIS_URL": "redis://h/0?ssl_cert_reqs=none"},
    "REDIS_URL that is almost memory": {"REDIS_URL": "memory://localhost"},
    "AMQP_URL without host": {"AMQP_URL": "amqp://user:pw@/"},
    "AMQP_URL with a port out of range": {"AMQP_URL": "amqp://h:99999/"},
    "AMQP_URL with # in the password": {"AMQP_URL": "amqp://user:p#w@h/"},
    "AMQP_URL with an open bracket": {"AMQP_URL": "amqp://[::1/"},
    "AMQP_URL that is almost memory": {"AMQP_URL": "memory://mesh"},
    "DATABASE_URL with a port that is no number": {"DATABASE_URL": "postgresql+asyncpg://h:x/d"},
    "DATABASE_URL with a port out of range": {"DATABASE_URL": "postgresql+asyncpg://h:99999/d"},
    "DATABASE_URL with libpq's name": {"DATABASE_URL": "postgresql+asyncpg://h/d?sslmode=require"},
    "DATABASE_URL with two slashes": {"DATABASE_URL": "sqlite+aiosqlite://bff.sqlite3"},
    "OIDC_ISSUER without TLS": OIDC | {"OIDC_ISSUER": "http://id.invalid"},
    "OIDC_ISSUER with a query": OIDC | {"OIDC_ISSUER": "https://id.invalid/?tenant=a"},
    "OIDC_ISSUER with a fragment": OIDC | {"OIDC_ISSUER": "https://id.invalid/#a"},
    "OIDC_ISSUER with a port out of range": OIDC | {"OIDC_ISSUER": "https://id.invalid:65536"},
    "OIDC_ISSUER is no URL": OIDC | {"OIDC_ISSUER": "id.invalid"},
    "memory:// in production": {"OIDC_ISSUER": "memory://"},
    "OIDC_CLIENT_ID missing": OIDC | {"OIDC_CLIENT_ID": ""},
    "OIDC_CLIENT_SECRET missing": OIDC | {"OIDC_CLIENT_SECRET": ""},
    "OIDC_PRIVATE_KEY_FILE and a secret": OIDC | {"OIDC_PRIVATE_KEY_FILE": __file__},
    "OIDC_SCOPES without openid": OIDC | {"OIDC_SCOPES": "profile"},
    "OIDC_SCOPES_CLAIM with a space": OIDC | {"OIDC_SCOPES_CLAIM": "realm access"},
    "OIDC_REDIRECT_URI without TLS": OIDC
    | {"OIDC_REDIRECT_URI": "http://app.invalid/auth/callback"},
    "OIDC_REDIRECT_URI to another path": OIDC | {"OIDC_REDIRECT_URI": "https://app.invalid/back"},
    "OIDC_REDIRECT_URI with a query": OIDC
    | {"OIDC_REDIRECT_URI": "https://app.invalid/auth/callback?a=1"},
    "OIDC_REDIRECT_URI with a fragment": OIDC
    | {"OIDC_REDIRECT_URI": "https://app.invalid/auth/callback#a"},
    "OIDC_REDIRECT_URI without host": OIDC | {"OIDC_REDIRECT_URI": "https:///auth/callback"},
    "AUTH_COOKIE is no name": {"AUTH_COOKIE": "a b"},
    "ROOT_PATH without slash": {"ROOT_PATH": "bff"},
    "ROOT_PATH with a slash too many": {"ROOT_PATH": "/bff/"},
}
"""By the name of the setting that the sentence must name."""

ACCEPTED: dict[str, dict[str, str]] = {
    "an app of Capacitor": {"ALLOWED_ORIGINS": "capacitor://localhost"},
    "an app of Ionic": {"ALLOWED_ORIGINS": "ionic://localhost"},
    "an app of Tauri": {"ALLOWED_ORIGINS": "tauri://localhost"},
    "an extension": {"ALLOWED_ORIGINS": f"chrome-extension://{'abcdefgh' * 4}"},
    "an IPv6 origin": {"ALLOWED_ORIGINS": "http://[::1]:8000"},
    "keys from a sidecar": JWKS | {"JWKS_URL": "http://127.0.0.1:8080/keys"},
    "keys from this machine by name": JWKS | {"JWKS_URL": "http://localhost/keys"},
    "keys from this machine over IPv6": JWKS | {"JWKS_URL": "http://[::1]:80/keys"},
    "several hosts with IPv6": {"REDIS_URL": "redis+cluster://:pw@one,two:7001,[::1]:7002/0"},
    "several brokers with IPv6": {"AMQP_URL": "amqp://u:p@[::1]:5673,b,[::2]/shop"},
    "sentinels": {"REDIS_URL": "rediss+sentinel://u:p@a:1,b/m/0?sentinel_password=x"},
    "a socket of PostgreSQL": {"DATABASE_URL": "postgresql+asyncpg://u:p@/d?host=/run/pg"},
    "TLS to PostgreSQL": {"DATABASE_URL": "postgresql+asyncpg://u:p@h/d?ssl=require"},
    "a vhost": {"AMQP_URL": "amqps://u:p%2F@h:5671/%2Fshop?cafile=/ca.pem"},
    "two secrets": {"MESH_TOKEN_SECRET": secrets.token_urlsafe(48)},
    "the shortest secret": {"JWT_SECRET": "q1w9e3r7t5" * 3 + "5t"},
    "the shortest lease": {"LEASE_SECONDS": "10", "LEASE_RENEWAL_SECONDS": "5"},
    "the longest time of a request": {"REQUEST_TIMEOUT_SECONDS": "30"},
    "an option of TLS": {"REDIS_URL": "rediss://h/0?ssl_cert_reqs=none"},
    "an option of SQLite": {"DATABASE_URL": "sqlite+aiosqlite:///bff.sqlite3?timeout=5"},
    "no host of Redis": {"REDIS_URL": "redis://:6379"},
    "sentinels without a database": {"REDIS_URL": "redis+sentinel://a/m"},
    "a cluster without a path": {"REDIS_URL": "redis+cluster://a"},
    "an option of the dialect": {
        "DATABASE_URL": "postgresql+asyncpg://h/d?prepared_statement_cache_size=0"
    },
    "a file in a folder": {"DATABASE_URL": "sqlite+aiosqlite:////var/bff.sqlite3"},
    "a path": {"ROOT_PATH": "/apps/bff"},
    "sign-in": OIDC | {"OIDC_REDIRECT_URI": "https://app.invalid/bff/auth/callback"},
    "sign-in alone": OIDC | {"JWT_SECRET": ""},
    "a provider beside the BFF": OIDC | {"OIDC_ISSUER": "http://127.0.0.1:8180/realms/a"},
}


def pem(key: Any, password: str = "") -> bytes:
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        protection = serialization.BestAvailableEncryption(password.encode())
    form = serialization.PrivateFormat.PKCS8
    return bytes(key.private_bytes(serialization.Encoding.PEM, form, protection))


RSA, P384 = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())
KEY_FILES: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "no PEM": b"\xff\xfe key",
    "cut off": pem(RSA)[:900],
    "with a password": pem(P384, "pass"),
    "a public key": RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ),
    "too short": pem(rsa.generate_private_key(65537, 1024)),
    "of another kind": pem(P384),
    "of a kind without a size": pem(ed25519.Ed25519PrivateKey.generate()),
}


@pytest.mark.parametrize("name", ["MESH_PRIVATE_KEY_FILE", "OIDC_PRIVATE_KEY_FILE"])
@pytest.mark.parametrize("what", KEY_FILES)
def test_a_key_file_that_cannot_be_used_is_one_sentence(
    bff: Callable[..., Result], tmp_path: Path, name: str, what: str
) -> None:
    if (content := KEY_FILES[what]) is not None:
        (tmp_path / "key.pem").write_bytes(content)
    for command in ("settings", "doctor"):
        refused = bff(command, **{name: "key.pem"})
        assert refused.exit_code == 2
        sentence, _ = refused.output.splitlines()
        assert f"{name} names a" in sentence or f"{name}: names a" in sentence


def test_key_files_that_can_be_used(bff: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "rsa.pem").write_bytes(pem(RSA))
    (tmp_path / "ec.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    for mesh, oidc in (("rsa.pem", "ec.pem"), ("rsa.pem", "rsa.pem")):
        names = {"MESH_PRIVATE_KEY_FILE": mesh, "OIDC_PRIVATE_KEY_FILE": oidc}
        accepted = bff("settings", **names)
        assert accepted.exit_code == 0, accepted.output
        settings = Settings(_env_file=None)
        assert settings.mesh_private_key_file == Path(mesh)
        assert settings.oidc_private_key_file == Path(oidc)


@pytest.fixture
def bff(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command in an empty folder, with good settings for production and these changes."""
    monkeypatch.chdir(tmp_path)

    def run(*command: str, **changes: str) -> Result:
        for name, value in (GOOD | changes).items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, command)

    return run


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_setting_is_one_sentence(bff: Callable[..., Result], what: str) -> None:
    refused = bff("settings", **REFUSED[what])
    assert refused.exit_code == 2
    assert isinstance(refused.exception, SystemExit)
    assert refused.stdout == ""
    sentence, advice = refused.stderr.splitlines()
    assert what.partition(" ")[0] in sentence
    assert "pa55" not in sentence
    assert advice.startswith("Set them in the environment")
    for secret in ("JWT_SECRET", "MESH_TOKEN_SECRET"):
        assert REFUSED[what].get(secret) in ("", None) or REFUSED[what][secret] not in sentence


ADVICE = {
    "redis_url": {
        "redis://h/main": "redis://host:port/<number of the database>",
        "redis+sentinel://h/m/x": "redis+sentinel://host,host/<master name>/<database>",
        "redis+cluster://h/1/x/2": "a cluster has only database 0; leave the path out",
        "redis://:p#w@h": "write a # in the password as %23",
        "redis://h?tls=1": "has an option that redis-py does not know",
        "redis://h:x": "a port must be a number from 1 to 65535",
        "redis+cluster://a,:1": "the host is missing",
        "redis://a b": "contains a space",
        "redis://[::1": "the brackets of an IPv6 address do not match",
        "http://h": "must begin with redis://, rediss://, ",
    },
    "database_url": {
        "postgresql+asyncpg://h/d?sslmode=require": "'sslmode': asyncpg calls it ssl",
        "postgresql+asyncpg://h/d?colour=red": "has the unknown option 'colour'",
        "sqlite+aiosqlite://file": "use sqlite+aiosqlite:///file, with three slashes",
    },
    "jwt_algorithms": {
        "RS256": "with JWT_SECRET use only HS256, HS384, HS512",
        "": "name at least one",
    },
    "allowed_origins": {
        "https://*.a.invalid": "wildcards are not supported",
        "https://bücher.invalid": "in Punycode",
        "https://a.invalid/app": "'https://a.invalid/app' is not an origin: use scheme://host",
        "https://ann:pa55@a.invalid": "an entry with a user name is not an origin",
        "http://[::1": "'http://[::1' is not an origin",
    },
}


@pytest.mark.parametrize("name", ADVICE)
def test_the_sentence_says_what_is_wrong_or_what_to_write(name: str) -> None:
    for value, words in ADVICE[name].items():
        given: dict[str, Any] = {name: value}
        with pytest.raises(ValidationError) as refused:
            Settings(_env_file=None, jwt_secret="s", environment="test", **given)
        (error,) = refused.value.errors()
        assert words in error["msg"]
        assert ("ssl" in error["msg"]) is ("ssl" in value)


@pytest.mark.parametrize("what", ACCEPTED)
def test_an_unusual_setting_is_accepted(bff: Callable[..., Result], what: str) -> None:
    accepted = bff("settings", **ACCEPTED[what])
    assert accepted.exit_code == 0, accepted.output
    settings = Settings(_env_file=None)
    kept = {name: getattr(settings, name.lower()) for name in ACCEPTED[what]}
    assert {name: value for name, value in kept.items() if isinstance(value, str)}.items() <= (
        ACCEPTED[what].items()
    )


def make(**changes: Any) -> Settings | None:
    """Settings with these values, or None if they are refused."""
    try:
        return Settings(_env_file=None, jwt_secret="s", environment="test", **changes)
    except ValidationError:
        return None


@pytest.mark.filterwarnings("error")
def test_what_follows_from_the_settings() -> None:
    production = Settings(_env_file=None, jwt_secret=GOOD["JWT_SECRET"])
    assert not production.embedded
    for name in ("redis_url", "amqp_url", "oidc_issuer"):
        within = make(**{name: "memory://"})
        assert within is not None
        assert within.embedded
        assert getattr(within, name) == "memory://"
    made = make(
        app_name="shop",
        max_token_seconds=50,
        max_session_seconds=70,
        stream_retention_seconds=60,
        stream_check_seconds=30.5,
        max_connections_per_user=20,
        jwt_previous_secret="old",
    )
    assert made is not None
    assert made.prefix == "shop:v1"
    assert made.revocation_seconds == 70 + 600, "longer than the clocks differ"
    assert made.unused_topic_seconds == 93, "three checks of the stream"
    assert made.max_connects_per_minute == 120
    assert made.jwt_secrets == ("s", "old")
    assert made.mesh_secret == "s"
    assert not made.development
    other = make(
        max_token_seconds=90,
        max_session_seconds=70,
        max_connections_per_user=2,
        mesh_token_secret="m",
    )
    assert other is not None
    assert other.mesh_secret == "m"
    assert other.revocation_seconds == 90 + 600
    assert other.unused_topic_seconds == 600
    assert other.max_connects_per_minute == 60
    assert other.jwt_secrets == ("s",)


@pytest.mark.parametrize("url", ["a://b", "a://b:1/c/d?e=f&g#h", "a://i:j@b?#", "a:///c", "b/c?d"])
def test_a_url_is_split_as_python_does_it_and_an_origin_is_what_browsers_send(url: str) -> None:
    assert split_url(url) == urlsplit(url)
    made = make(allowed_origins=" HTTPS://A.invalid:8443/ ,, http://[::1]:80")
    assert made is not None
    assert made.allowed_origins == ("https://a.invalid:8443", "http://[::1]:80")


AUTHORITY = st.text("ab.:@[]/?#%*, 019-_é", max_size=24)
TAIL = st.text("ab/0?=&#%:@ ", max_size=8)


@PROPERTY
@given(st.sampled_from(["redis", "rediss", "redis+sentinel", "redis+cluster"]), AUTHORITY, TAIL)
def test_what_is_accepted_as_redis_makes_a_client(kind: str, authority: str, tail: str) -> None:
    if accepted := make(redis_url=f"{kind}://{authority}{tail}"):
        create_client(accepted.redis_url)


@PROPERTY
@given(AUTHORITY, TAIL)
def test_what_is_accepted_as_mesh_or_database_can_be_used(authority: str, tail: str) -> None:
    if accepted := make(amqp_url=f"amqp://{authority}{tail}"):
        assert URL(accepted.amqp_url).host
    if accepted := make(database_url=f"postgresql+asyncpg://{authority}{tail}"):
        make_engine(accepted.database_url)


@PROPERTY
@given(st.sampled_from(["https", "http", "capacitor", "file", "HTTPS"]), AUTHORITY, TAIL)
def test_what_is_accepted_as_origin_is_one(scheme: str, authority: str, tail: str) -> None:
    if accepted := make(allowed_origins=(f"{scheme}://{authority}{tail}",)):
        (allowed,) = Origins(accepted.allowed_origins).allowed
        assert allowed == allowed.lower()
        assert not set(allowed) & set("*@?#, %")
        assert allowed.count("/") == 2


def test_random_secrets_are_accepted() -> None:
    for _ in range(1_000):
        assert secret_fault(secrets.token_hex(32)) is None
        assert secret_fault(secrets.token_urlsafe(32)) is None


def test_in_production_services_get_no_token_that_users_secret_signs(
    bff: Callable[..., Result],
) -> None:
    secret = secrets.token_hex(32)
    alone = Settings(_env_file=None, jwt_secret=GOOD["JWT_SECRET"])
    both = Settings(_env_file=None, jwt_secret=GOOD["JWT_SECRET"], mesh_token_secret=secret)
    assert (alone.mesh_secret, both.mesh_secret) == (None, secret)


def test_misspelt_names_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JWT_ISSUERS", "https://id.invalid")
    monkeypatch.setenv("EDITOR", "vi")
    (tmp_path / ".env.example").write_text("LOG_LEVEL=INFO\nPUBLIC_PORT=8080\n# UI_PORT=15672\n")
    (tmp_path / ".env").write_text(
        "ALLOWED_ORIGIN=https://a.invalid\nJWT_SECRET=x\nPUBLIC_PORT=1\nui_port=2\nBILLING=3\n"
    )
    assert list(unknown_names(Settings, tmp_path)) == [
        "ALLOWED_ORIGIN in .env is not a setting, do you mean ALLOWED_ORIGINS?",
        "BILLING in .env is not a setting; it is ignored",
        "JWT_ISSUERS in the environment is not a setting, do you mean JWT_ISSUER?",
    ]


@pytest.mark.parametrize("host", ["::", "::1"])
def test_ipv6_addresses_can_be_bound(
    bff: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    served: list[str] = []
    monkeypatch.setattr("bff.cli.run", lambda _, host, port, **__: served.append(host))
    done = bff("serve", "--host", host, "--port", "0")
    assert done.exit_code == 0, done.output
    assert served == [host]

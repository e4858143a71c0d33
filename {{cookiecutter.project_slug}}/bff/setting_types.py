"""The types of settings: each checks its value and says what is wrong with it.

What is checked when a setting is read stops `bff` with one sentence. What is found later is a
traceback, or a service that looks healthy and is not.
"""

from __future__ import annotations

import inspect
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

MIN_RSA_BITS: Final = 2048
MIN_SECRET_BYTES: Final = 32
MIN_SECRET_CHARACTERS: Final = 10
"""How many different characters a secret must contain."""

_PLACEHOLDERS = (
    *("change", "secret", "example", "password", "passphrase", "placeholder", "insecure"),
    *("default", "replace", "sample", "your-", "your_", "qwerty", "0123456", "1234567", "abcdefg"),
)
"""Parts of secrets that were typed or copied. A random secret contains one of them about once in
a million."""
_NO_ORIGINS: Final = ("ws", "wss", "ftp", "file", "data", "blob", "about", "javascript")
"""Schemes whose pages send no origin, or that no page has."""
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_URL = re.compile(r"(?s)(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?")
"""RFC 3986, appendix B."""
_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


def _origin(value: str) -> str:
    """An origin as browsers send it: scheme, host and port, nothing else (RFC 6454, section 6).

    Apps have schemes of their own: `capacitor://localhost`, `chrome-extension://<id>`.
    """
    shown = repr(value) if "@" not in value else "an entry with a user name"
    try:
        parts = urlsplit(value.lower())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{shown} is not an origin: {_ORIGIN_FORM}") from None
    if not value.isascii():
        raise ValueError(f"write the host of {shown} in Punycode (xn--…)")
    if "*" in value:
        raise ValueError(f"{shown}: wildcards are not supported, list each origin")
    complete = f"{parts.scheme}://{parts.netloc}"
    if (
        value.lower() not in (complete, f"{complete}/")
        or not _SCHEME.fullmatch(parts.scheme)
        or parts.scheme in _NO_ORIGINS
        or parts.username is not None
        or not (_HOST.fullmatch(host) or _is_ipv6(parts.netloc, host))
        or port == 0
        or parts.netloc.endswith(":")
    ):
        raise ValueError(f"{shown} is not an origin: {_ORIGIN_FORM}")
    return complete


_ORIGIN_FORM: Final = "use scheme://host or scheme://host:port"


def _is_ipv6(netloc: str, host: str) -> bool:
    try:
        return netloc.startswith("[") and bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def _ports(parts: SplitResult, default_host: bool = False) -> None:
    """
    Raises:
        ValueError: a host is missing, or a port is not between 1 and 65535.
    """
    for address in parts.netloc.rpartition("@")[2].split(","):
        try:
            one = urlsplit(f"//{address}")
            host, port = one.hostname, one.port
        except ValueError:
            raise ValueError("a port must be a number from 1 to 65535") from None
        if port == 0 or address.endswith(":"):
            raise ValueError("a port must be a number from 1 to 65535")
        if not host and not default_host:
            raise ValueError("the host is missing")


def _parts(url: str, *schemes: str) -> SplitResult:
    """The parts of a URL with one of these schemes.

    Raises:
        ValueError: it has another scheme, or is no URL. The URL is not in the text: it may contain
            a password.
    """
    if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"must begin with {'://, '.join(schemes)}://")
    if re.search(r"\s", url):
        raise ValueError("contains a space")
    if url.startswith("memory://") and url != "memory://":
        raise ValueError("memory:// must be followed by nothing")
    parts = split_url(url)
    try:
        for host in parts.netloc.rpartition("@")[2].split(","):
            urlsplit(f"//{host}")
    except ValueError:
        raise ValueError("is not a URL: the brackets of an IPv6 address do not match") from None
    return parts


def split_url(url: str) -> SplitResult:
    """The parts of a URL, which may name several hosts: `redis+cluster://one,[::1]:7002`.

    `urllib.parse.urlsplit` refuses such an IPv6 address since the fix of CVE-2025-0938.
    """
    match = _URL.fullmatch(url)
    assert match is not None  # noqa: S101 - the expression matches every text
    return SplitResult(*(part or "" for part in match.groups()))


def _redis_url(url: str) -> str:
    schemes = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster")
    parts = _parts(url, *schemes, "rediss+cluster", "memory")
    if parts.scheme == "memory":
        return url
    if parts.fragment:
        raise ValueError("write a # in the password as %23")
    kind = parts.scheme.partition("+")[2]
    _ports(parts, default_host=not kind)
    path = [part for part in parts.path.split("/") if part]
    if kind == "" and not (len(path) <= 1 and all(part.isdecimal() for part in path)):
        raise ValueError("use redis://host:port/<number of the database>")
    if kind == "sentinel" and (len(path) > 2 or not all(part.isdecimal() for part in path[1:])):
        raise ValueError("use redis+sentinel://host,host/<master name>/<database>")
    if kind == "cluster" and path not in ([], ["0"]):
        raise ValueError("a cluster has only database 0; leave the path out")
    _redis_options(parts)
    return url


def _redis_options(parts: SplitResult) -> None:
    from redis.asyncio.connection import Connection, SSLConnection, parse_url

    login = parts.netloc.rpartition("@")[0]
    options: dict[str, Any] = dict(parse_url(f"redis://{login}@host?{parts.query}"))
    for name in _SENTINEL_OPTIONS:
        options.pop(name, None)
    kind: Callable[..., object] = SSLConnection if parts.scheme.startswith("rediss") else Connection
    try:
        kind(**options)
    except TypeError:
        raise ValueError("has an option that redis-py does not know") from None


def _amqp_url(url: str) -> str:
    parts = _parts(url, "amqp", "amqps", "memory")
    if parts.scheme == "memory":
        return url
    if parts.fragment:
        raise ValueError("write a # in the password as %23")
    _ports(parts)
    from yarl import URL

    try:
        for one in each_host(url):
            URL(one)
    except ValueError:
        raise ValueError("is not a URL: its host is not a name or an address") from None
    return url


def each_host(url: str) -> list[str]:
    """A URL for each of the hosts of a URL: `amqp://user@a,b:5673/vhost` names two."""
    parts = split_url(url)
    login, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]


def _database_url(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    parts = _parts(url, "sqlite+aiosqlite", "postgresql+asyncpg")
    if parts.scheme.startswith("sqlite") and parts.netloc:
        raise ValueError("use sqlite+aiosqlite:///file, with three slashes, four for /absolute")
    _ports(parts, default_host=True)
    try:
        dialect = make_url(url).get_dialect()()
        options = dialect.create_connect_args(make_url(url))[1]
    except (ArgumentError, ValueError, TypeError) as error:
        reason = f"is not a database URL ({type(error).__name__})"
        raise ValueError(f"{reason}: write special characters of the password as %xx") from None
    if parts.scheme.startswith("postgresql") and parts.query:
        import asyncpg  # type: ignore[import-untyped]

        known = inspect.signature(asyncpg.connect).parameters
        if unknown := sorted(options.keys() - known.keys() - _ASYNCPG_DIALECT):
            hint = ": asyncpg calls it ssl" if unknown[0] == "sslmode" else ""
            raise ValueError(f"has the unknown option {unknown[0]!r}{hint}")
    return url


_ASYNCPG_DIALECT: Final = {
    "async_fallback",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
}
"""Options that SQLAlchemy takes before it calls asyncpg."""


def _jwks_url(value: str | None) -> str | None:
    if value is not None:
        parts = _parts(value, "https", "http")
        _ports(parts)
        if parts.fragment:
            raise ValueError("must not have a fragment (#…)")
    return value


def _issuer(value: str | None) -> str | None:
    if value is not None and value != "memory://":
        parts = _parts(value, "https", "http")
        _ports(parts)
        if parts.query or parts.fragment:
            raise ValueError("must have neither a query (?…) nor a fragment (#…)")
    return value


def _redirect_uri(value: str | None) -> str | None:
    if value is not None:
        parts = _parts(value, "https", "http")
        _ports(parts)
        if not parts.path.endswith("/auth/callback") or parts.query or parts.fragment:
            raise ValueError("must end with /auth/callback")
    return value


def _private_key(path: Path) -> Any:
    """The private key in a file.

    Raises:
        ValueError: there is none that can be used. Later that would be a traceback.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ValueError(f"names a file that cannot be read: {error.strerror}") from None
    except TypeError:
        raise ValueError("names a key with a password: store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("names a file that is no private key in PEM") from None


def _is_rsa(key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    return isinstance(key, RSAPrivateKey) and key.key_size >= MIN_RSA_BITS


def _rsa_key_file(path: Path | None) -> Path | None:
    if path is not None and not _is_rsa(_private_key(path)):
        raise ValueError(f"names a key that is not RSA of at least {MIN_RSA_BITS} bits")
    return path


def _signing_key_file(path: Path | None) -> Path | None:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    if path is not None:
        key = _private_key(path)
        is_p256 = isinstance(key, EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
        if not is_p256 and not _is_rsa(key):
            raise ValueError(f"names a key that is neither EC P-256 nor RSA of {MIN_RSA_BITS} bits")
    return path


def is_local(url: str) -> bool:
    """Whether a URL names this machine, so that the answer does not cross a network."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret_fault(secret: str) -> str | None:
    """Why a secret is not good enough for production, or None."""
    advice = "use at least {} random bytes, for example from `openssl rand -hex 32`"
    if len(secret.encode()) < MIN_SECRET_BYTES or len(set(secret)) < MIN_SECRET_CHARACTERS:
        return f"is weak: {advice.format(MIN_SECRET_BYTES)}"
    if secret in (secret + secret)[1:-1]:
        return f"is weak, it repeats itself: {advice.format(MIN_SECRET_BYTES)}"
    if any(word in secret.casefold() for word in _PLACEHOLDERS):
        return f"looks like a placeholder: {advice.format(MIN_SECRET_BYTES)}"
    return None


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[
    tuple[Annotated[str, BeforeValidator(_origin)], ...], NoDecode, BeforeValidator(_split)
]
BlankIsNone = BeforeValidator(_blank_is_none)
RsaKeyFile = Annotated[Path | None, BlankIsNone, AfterValidator(_rsa_key_file)]
SigningKeyFile = Annotated[Path | None, BlankIsNone, AfterValidator(_signing_key_file)]
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
AmqpUrl = Annotated[str, AfterValidator(_amqp_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
JwksUrl = Annotated[str | None, BlankIsNone, AfterValidator(_jwks_url)]
Issuer = Annotated[str | None, BlankIsNone, AfterValidator(_issuer)]
RedirectUri = Annotated[str | None, BlankIsNone, AfterValidator(_redirect_uri)]

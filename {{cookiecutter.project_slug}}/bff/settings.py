"""Every setting, from the environment or `.env`; `.env.example` lists them for operators."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_SECRET_BYTES = 32
MIN_SECRET_CHARACTERS = 10
"""How many different characters a secret needs at least."""


_REDIS = (
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "memory",
)


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _origin(value: str) -> str:
    """An origin as browsers send it: scheme, host and port, nothing else (RFC 6454, section 6)."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ValueError(f"{value!r} is no origin: write scheme://host or scheme://host:port")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _address(*kinds: str) -> AfterValidator:
    """Of one of these kinds; what else is wrong with it shows when it is used."""

    def check(address: str) -> str:
        if not address.startswith(tuple(f"{kind}://" for kind in kinds)):
            raise ValueError(f"must begin with {'://, '.join(kinds)}://")
        return address

    return AfterValidator(check)


def _is_weak(secret: str) -> bool:
    return len(secret.encode()) < MIN_SECRET_BYTES or len(set(secret)) < MIN_SECRET_CHARACTERS


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[
    tuple[Annotated[str, BeforeValidator(_origin)], ...], NoDecode, BeforeValidator(_split)
]
BlankIsNone = BeforeValidator(_blank_is_none)
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class MeshSettings(BaseSettings):
    """What a part of the mesh needs: a service has these alone, the BFF has all."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    app_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")] = "bff"
    """Prefix of every Redis key and every queue: two BFFs on one Redis need two names."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"
    amqp_url: Annotated[str, _address("amqp", "amqps", "memory")] = (
        "amqp://guest:guest@localhost:5672/"
    )
    """`amqp://`, `amqps://`, or `memory://`: a mesh inside this process."""
    request_timeout_seconds: Seconds = 10
    """Seconds a mesh call may take when the caller names no time."""
    max_request_timeout_seconds: Seconds = 30
    max_pending_requests: Count = 10_000
    """Mesh calls in flight per instance."""
    max_pending_requests_per_service: Count = 2_500
    """Of these, calls to one service: a slow one leaves room for the others."""
    keep_result_seconds: Seconds = 300
    """How long a reply that came too late is awaited where the result is to be kept."""
    rpc_exchange: str = "nuropb-rpc-exchange"
    events_exchange: str = "nuropb-events-exchange"
    dead_letter_exchange: str = "nuropb-dl-exchange"
    description_cache_seconds: Seconds = 600
    """How long the description of another service, and so its public key, is held for true."""


class Settings(MeshSettings):
    """What varies between deployments. Field `redis_url` is the variable `REDIS_URL`."""

    environment: Literal["development", "test", "production"] = "production"

    redis_url: Annotated[str, _address(*_REDIS)] = "redis://localhost:6379/0"
    """`redis://`, `rediss://`, `redis+sentinel://host:port,host:port/master`, `redis+cluster://`,
    or `memory://`: an embedded engine for one process."""
    database_url: Annotated[str, _address("sqlite+aiosqlite", "postgresql+asyncpg")] = (
        "sqlite+aiosqlite:///bff.sqlite3"
    )
    """An async SQLAlchemy address: `sqlite+aiosqlite://` or `postgresql+asyncpg://`."""

    jwt_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """The HS256 secret; or give `jwks_url`."""
    jwks_url: Annotated[str | None, BlankIsNone] = None
    """Where the identity provider publishes its keys (RFC 7517)."""
    jwt_algorithms: Names = ("HS256",)
    """The only algorithms accepted. With `jwks_url`: RS256, ES256 and their like."""
    jwt_issuer: Annotated[str | None, BlankIsNone] = None
    jwt_audience: Annotated[str | None, BlankIsNone] = None
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 10
    """Seconds by which clocks may differ."""
    auth_cookie: str = "Authorization"
    """The cookie that may carry the token."""
    allowed_origins: Origins = ()
    """The exact origins whose pages may connect, separated by commas. There is no wildcard."""
    ticket_seconds: Count = 30
    """How long a single-use ticket is good."""
    token_grace_seconds: Seconds = 25
    """Seconds between a token's expiry and the closing of its socket."""

    ping_interval_seconds: Seconds = 25
    ping_timeout_seconds: Seconds = 10
    max_frame_bytes: Count = 64 * 1024
    max_json_depth: Count = 32
    max_body_bytes: Count = 256 * 1024
    """Of an HTTP request."""
    max_queue_bytes: Count = 1024 * 1024
    """What may wait for a socket that reads too slowly; beyond it the socket is closed."""
    max_messages_per_minute: Count = 600
    max_message_burst: Count = 100
    max_requests_per_connection: Count = 32
    """Per socket."""
    max_requests_per_user: Count = 64
    """In flight per instance, over sockets and HTTP."""
    max_connections_per_user: Count = 20
    """Over all instances."""
    max_topics_per_connection: Count = 128
    drain_seconds: Annotated[float, Field(ge=0)] = 30

    max_stream_length: Count = 200
    """How many recent messages of a user are kept for those who come back."""
    stream_retention_seconds: Count = 600
    position_retention_seconds: Count = 24 * 3600
    """How long a quiet user's position stays good."""
    stream_check_seconds: Seconds = 30
    """How often what live sockets got is compared with what Redis has."""
    lease_seconds: Seconds = 15
    """How long an instance that has fallen silent still counts as living."""
    lease_renewal_seconds: Seconds = 5
    presence_grace_seconds: Annotated[float, Field(ge=0)] = 5
    """Seconds that somebody may be away before he is said to be offline."""
    pubsub_probe_seconds: Seconds = 5
    """How often the relay proves that it hears; three probes unheard make it deaf."""

    mesh_token_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """The HS256 secret of the tokens that services get; `jwt_secret` when there is none."""
    mesh_token_seconds: Count = 60
    """How long the token of one call is good."""
    mesh_token_keys: Names = ("Authorization",)
    """The keys of a call's `context` under which services look for the token. Services that were
    written for `nuropb_gw` look under its `Authorisation`."""
    mesh_token_prefix: str = ""
    """What stands before that token: NuroPb services expect nothing."""
    mesh_private_key_file: Annotated[FilePath | None, BlankIsNone] = None
    """An RSA key in PEM: for methods of the BFF that other services are to call encrypted."""

    @property
    def development(self) -> bool:
        return self.environment == "development"

    @property
    def prefix(self) -> str:
        """Before every Redis key: names carry a version, so that old and new instances can live
        side by side during a rolling update."""
        return f"{self.app_name}:v1"

    @property
    def embedded(self) -> bool:
        """Whether an engine of this process stands in for a server."""
        return "memory://" in (self.redis_url, self.amqp_url)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.jwt_secret is None and self.jwks_url is None:
            raise ValueError("set JWT_SECRET or JWKS_URL: without one nobody can sign in")
        hmac = [name for name in self.jwt_algorithms if name.startswith("HS")]
        if self.jwks_url is not None and hmac:
            raise ValueError("JWT_ALGORITHMS: with JWKS_URL name RS256, ES256 or the like, not HS*")
        if self.jwks_url is None and len(hmac) != len(self.jwt_algorithms):
            raise ValueError("JWT_ALGORITHMS: with JWT_SECRET only HS256, HS384 and HS512 go")
        if not self.jwt_algorithms:
            raise ValueError("JWT_ALGORITHMS is empty: name at least one")
        if self.lease_renewal_seconds * 2 > self.lease_seconds:
            raise ValueError("LEASE_SECONDS must be at least twice LEASE_RENEWAL_SECONDS")
        if self.request_timeout_seconds > self.max_request_timeout_seconds:
            raise ValueError("REQUEST_TIMEOUT_SECONDS is larger than MAX_REQUEST_TIMEOUT_SECONDS")
        return self

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.environment != "production":
            return self
        if self.embedded:
            raise ValueError("memory:// is for development: production needs Redis and RabbitMQ")
        for name in ("jwt_secret", "mesh_token_secret"):
            value: SecretStr | None = getattr(self, name)
            secret = value.get_secret_value() if value is not None else None
            if secret is not None and _is_weak(secret):
                raise ValueError(
                    f"{name.upper()} is weak: take at least {MIN_SECRET_BYTES} random bytes, "
                    "for instance from `openssl rand -hex 32`"
                )
        return self

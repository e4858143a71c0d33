"""Every setting of the engine, from the environment or `.env`.

The docstring below a field is its explanation: `bff settings` prints it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_SECRET_BYTES = 32
MIN_SECRET_CHARACTERS = 10
"""How many different characters a secret must contain."""


_REDIS_SCHEMES = (
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
        raise ValueError(f"{value!r} is not an origin: use scheme://host or scheme://host:port")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _url(*schemes: str) -> AfterValidator:
    """A URL with one of these schemes. Its other parts are checked when it is used."""

    def check(url: str) -> str:
        if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must begin with {'://, '.join(schemes)}://")
        return url

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
    """The settings of a mesh client. A mesh service needs only these, the BFF needs all."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    app_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")] = "bff"
    """Prefix of every Redis key and every queue: two BFFs on one Redis or RabbitMQ need two
    names."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged: DEBUG, INFO, WARNING or ERROR."""
    log_format: Literal["json", "text"] = "json"
    """`json` for log collectors, `text` for a terminal."""
    amqp_url: Annotated[str, _url("amqp", "amqps", "memory")] = "amqp://guest:guest@localhost:5672/"
    """RabbitMQ: `amqp://user:password@host:5672/vhost`, `amqps://…`, or `memory://` for a mesh
    inside this process (development and tests)."""
    request_timeout_seconds: Seconds = 10
    """Time limit of a mesh call, unless the caller sets one."""
    max_request_timeout_seconds: Seconds = 30
    """The longest time limit that a caller may set."""
    max_pending_requests: Count = 10_000
    """Mesh calls waiting for a reply, per instance; more are refused with `too_many_in_flight`."""
    max_pending_requests_per_service: Count = 2_500
    """Of these, calls to one service, so that a slow service does not block the others."""
    keep_result_seconds: Seconds = 300
    """After a call to a method with `keep_result=True` timed out: how long its late reply is still
    accepted."""
    rpc_exchange: str = "nuropb-rpc-exchange"
    """NuroPb's exchange for calls. The same in all services of the mesh."""
    events_exchange: str = "nuropb-events-exchange"
    """NuroPb's exchange for events. The same in all services of the mesh."""
    dead_letter_exchange: str = "nuropb-dl-exchange"
    """NuroPb's exchange for rejected messages. The same in all services of the mesh."""
    description_cache_seconds: Seconds = 600
    """How long another service's description, with its public key, is cached."""


class Settings(MeshSettings):
    """What varies between deployments. Field `redis_url` is the variable `REDIS_URL`."""

    environment: Literal["development", "test", "production"] = "production"
    """`development`, `test` or `production`. Production refuses `memory://` and weak secrets."""

    redis_url: Annotated[str, _url(*_REDIS_SCHEMES)] = "redis://localhost:6379/0"
    """`redis://`, `rediss://`, `redis+sentinel://host:port,host:port/master`, `redis+cluster://`,
    or `memory://` for a Redis inside this process (development and tests)."""
    database_url: Annotated[str, _url("sqlite+aiosqlite", "postgresql+asyncpg")] = (
        "sqlite+aiosqlite:///bff.sqlite3"
    )
    """An async SQLAlchemy URL: `sqlite+aiosqlite:///file` or
    `postgresql+asyncpg://user:password@host/database`."""

    jwt_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """Secret of tokens signed with HS256, HS384 or HS512. Set this or `JWKS_URL`."""
    jwks_url: Annotated[str | None, BlankIsNone] = None
    """URL of the identity provider's public keys (RFC 7517). Set this or `JWT_SECRET`."""
    jwt_algorithms: Names = ("HS256",)
    """The accepted signature algorithms, separated by commas. With `JWKS_URL` for example RS256 or
    ES256."""
    jwt_issuer: Annotated[str | None, BlankIsNone] = None
    """Required value of a token's `iss`. Empty: not checked."""
    jwt_audience: Annotated[str | None, BlankIsNone] = None
    """Required value of a token's `aud`. Empty: tokens that have an `aud` are refused."""
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 10
    """Allowed difference between the clocks of the issuer and the BFF."""
    auth_cookie: str = "Authorization"
    """Name of the cookie that may carry the token."""
    allowed_origins: Origins = ()
    """The exact origins whose pages may connect, separated by commas. No wildcards."""
    ticket_seconds: Count = 30
    """Lifetime of a single-use ticket."""
    token_grace_seconds: Seconds = 25
    """Time between a token's expiry and the closing of its connection."""

    ping_interval_seconds: Seconds = 25
    """Time between two pings to a client."""
    ping_timeout_seconds: Seconds = 10
    """Time to wait for a pong before the connection is closed."""
    max_frame_bytes: Count = 64 * 1024
    """Largest message that a client may send over its connection."""
    max_json_depth: Count = 32
    """Deepest nesting of JSON that a client may send."""
    max_body_bytes: Count = 256 * 1024
    """Largest body of an HTTP request."""
    max_queue_bytes: Count = 1024 * 1024
    """Data that may wait for a client that reads too slowly; beyond it the connection is closed."""
    max_messages_per_minute: Count = 600
    """Frames that a client may send per minute, as an average."""
    max_message_burst: Count = 100
    """Frames that a client may send at once."""
    max_requests_per_connection: Count = 32
    """Unanswered requests per connection."""
    max_requests_per_user: Count = 64
    """Unanswered requests per user and instance, over all connections and HTTP."""
    max_connections_per_user: Count = 20
    """Connections per user, over all instances."""
    max_topics_per_connection: Count = 128
    """Subscribed topics per connection."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30
    """Time over which an instance that stops closes its connections, one after the other. Allow 15
    seconds more before the process is killed. `bff dev` uses 0."""

    max_stream_length: Count = 200
    """Messages kept per user, topic and broadcast stream for clients that reconnect."""
    stream_retention_seconds: Count = 600
    """How long a stream is kept after its last message."""
    position_retention_seconds: Count = 24 * 3600
    """How long a client can resume from its position if nothing was sent since."""
    stream_check_seconds: Seconds = 30
    """Interval at which the position of each live stream is compared with Redis."""
    lease_seconds: Seconds = 15
    """An instance that has not renewed its lease for this time counts as dead. At least twice
    `LEASE_RENEWAL_SECONDS`."""
    lease_renewal_seconds: Seconds = 5
    """Interval at which an instance renews its lease."""
    presence_grace_seconds: Annotated[float, Field(ge=0)] = 5
    """A user counts as offline after being disconnected for this time."""
    pubsub_probe_seconds: Seconds = 5
    """Interval of the probes that check the pub/sub connection; after three lost probes it is
    reconnected."""

    mesh_token_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """HS256 secret of the short-lived tokens that services receive with each call. Empty:
    `JWT_SECRET`; with `JWKS_URL`, services receive no token."""
    mesh_token_seconds: Count = 60
    """Lifetime of these tokens."""
    mesh_token_keys: Names = ("Authorization",)
    """Keys of a call's `context` that hold the token, separated by commas. Services written for
    `nuropb_gw` expect `Authorisation`."""
    mesh_token_prefix: str = ""
    """Text before the token in the `context`, for example `Bearer `. NuroPb services expect
    none."""
    mesh_private_key_file: Annotated[FilePath | None, BlankIsNone] = None
    """Path of an RSA key in PEM, for encrypted calls of other services to the BFF."""

    @property
    def development(self) -> bool:
        return self.environment == "development"

    @property
    def prefix(self) -> str:
        """Prefix of every Redis key. It contains a version, so that old and new instances can run
        side by side during a rolling update."""
        return f"{self.app_name}:v1"

    @property
    def embedded(self) -> bool:
        """Whether Redis or RabbitMQ is replaced by an engine inside this process."""
        return "memory://" in (self.redis_url, self.amqp_url)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.jwt_secret is None and self.jwks_url is None:
            raise ValueError("set JWT_SECRET or JWKS_URL: without one, no token can be verified")
        hmac = [name for name in self.jwt_algorithms if name.startswith("HS")]
        if self.jwks_url is not None and hmac:
            raise ValueError("JWT_ALGORITHMS: with JWKS_URL use RS256, ES256 or similar, not HS*")
        if self.jwks_url is None and len(hmac) != len(self.jwt_algorithms):
            raise ValueError("JWT_ALGORITHMS: with JWT_SECRET use only HS256, HS384 and HS512")
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
                    f"{name.upper()} is weak: use at least {MIN_SECRET_BYTES} random bytes, "
                    "for example from `openssl rand -hex 32`"
                )
        return self

"""Every setting of the engine, from the environment or `.env`.

The docstring below a field is its explanation: `bff settings` prints it.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Final, Literal, Protocol, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bff.setting_types import (
    AmqpUrl,
    BlankIsNone,
    Count,
    DatabaseUrl,
    Issuer,
    JwksUrl,
    Names,
    Origins,
    RedirectUri,
    RedisUrl,
    RsaKeyFile,
    Seconds,
    SigningKeyFile,
    is_local,
    secret_fault,
)

HMAC_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
PUBLIC_KEY_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
MESH_AUDIENCE: Final = "mesh"
"""The `aud` of a mesh token, which must not be usable to sign in."""
_MIN_CONNECTS_PER_MINUTE: Final = 60


_CLOCK_SECONDS: Final = 600
"""More than the clocks of issuers, instances and Redis differ."""


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
    amqp_url: AmqpUrl = "amqp://guest:guest@localhost:5672/"
    """RabbitMQ: `amqp://user:password@host:5672/vhost`, `amqps://…`, or `memory://` for a mesh
    inside this process (development and tests). Several hosts, with commas, are tried in turn.
    Options: `?cafile=/path/ca.pem` for a CA of your own, `?heartbeat=` in seconds (5)."""
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
    max_event_retries: Count = 300
    """How often an event handler may retry one mesh event before it moves to the dead letters."""
    event_retry_seconds: Seconds = 900
    """How long an event handler may retry one mesh event before it moves to the dead letters."""
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
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_.~-]+)*$")] = ""
    """Path under which a proxy serves the BFF, for example `/bff`. The proxy may remove it from
    requests or not."""
    api_docs: Annotated[bool | None, BlankIsNone] = None
    """Serve the description of the API: `/docs`, `/openapi.json` and `/asyncapi.json`. Empty: not
    in production."""

    redis_url: RedisUrl = "redis://localhost:6379/0"
    """`redis://`, `rediss://`, `redis+sentinel://host:port,host:port/master`, `redis+cluster://`,
    or `memory://` for a Redis inside this process (development and tests)."""
    database_url: DatabaseUrl = "sqlite+aiosqlite:///bff.sqlite3"
    """An async SQLAlchemy URL: `sqlite+aiosqlite:///file` or
    `postgresql+asyncpg://user:password@host/database`."""

    jwt_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """Secret of tokens signed with HS256, HS384 or HS512. Set this, `JWKS_URL` or
    `OIDC_ISSUER`."""
    jwt_previous_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """The former `JWT_SECRET`, whose tokens are still accepted. Set it while the secret is rotated,
    for the longest lifetime of a token."""
    jwks_url: JwksUrl = None
    """URL of the identity provider's public keys (RFC 7517). Set this or `JWT_SECRET`. In
    production `https://`; `http://` only to this machine."""
    jwt_algorithms: Names = ("HS256",)
    """The accepted signature algorithms, separated by commas. With `JWKS_URL` for example RS256 or
    ES256."""
    jwt_issuer: Annotated[str | None, BlankIsNone] = None
    """Required value of a token's `iss`. Empty: not checked. Production requires it with
    `JWKS_URL`."""
    jwt_audience: Annotated[str | None, BlankIsNone] = None
    """Required value of a token's `aud`. Empty: tokens that have an `aud` are refused."""
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 10
    """Allowed difference between the clocks of the issuer and the BFF."""
    max_token_seconds: Count = 24 * 3600
    """Longest lifetime of a token, from its `iat` to its `exp`; longer ones are refused. A
    revocation is kept for this time, so that it outlives every token that it covers."""
    auth_cookie: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = "Authorization"
    """Name of the cookie that may carry the token."""
    allowed_origins: Origins = ()
    """The exact origins whose pages may connect, separated by commas. No wildcards. Apps have
    schemes of their own, for example `capacitor://localhost`."""
    ticket_seconds: Count = 30
    """Lifetime of a single-use ticket."""
    max_tickets_per_user: Count = 60
    """Tickets that a user may get within `TICKET_SECONDS`, over all instances."""
    token_grace_seconds: Seconds = 25
    """Time between a token's expiry and the closing of its connection."""

    oidc_issuer: Issuer = None
    """The identity provider at which the BFF signs users in (OpenID Connect): its issuer, exactly
    as the provider spells it. `memory://` is a provider inside this process (development). Empty:
    there are no sessions, callers need tokens."""
    oidc_client_id: str = ""
    """The id of the BFF at the identity provider."""
    oidc_client_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """The secret of the BFF at the identity provider. Set this or `OIDC_PRIVATE_KEY_FILE`."""
    oidc_private_key_file: SigningKeyFile = None
    """Path of an RSA or EC (P-256) key in PEM, with which the BFF authenticates at the identity
    provider (`private_key_jwt`)."""
    oidc_redirect_uri: RedirectUri = None
    """The callback that is registered at the identity provider, for example
    `https://app.example.com/auth/callback`. Empty: `/auth/callback` of the host that the browser
    uses, which must be in `ALLOWED_ORIGINS`."""
    oidc_scopes: Names = ("openid", "profile")
    """What the BFF asks the identity provider for, separated by commas. Many providers issue a
    refresh token only with `offline_access`."""
    oidc_scopes_claim: Annotated[str, Field(pattern=r"^[^\s.]+(\.[^\s.]+)*$")] = "scope"
    """The claim that holds the user's scopes in the BFF, as a list or a text with spaces. A dot
    leads into an object: `realm_access.roles`."""
    session_idle_seconds: Count = 8 * 3600
    """A session ends when neither a request nor a frame has come for this time. A quarter of it may
    pass in addition, at most 5 minutes: frames are not written to Redis one by one."""
    max_session_seconds: Count = 24 * 3600
    """A session ends after this time, however active it is."""
    max_sessions_per_user: Count = 50
    """Sessions per user. The oldest ends when there are more."""

    ping_interval_seconds: Seconds = 25
    """Time between two pings to a client."""
    ping_timeout_seconds: Seconds = 10
    """Time to wait for a pong before the connection is closed."""
    max_frame_bytes: Count = 64 * 1024
    """Largest message that a client may send over its connection."""
    max_json_depth: Count = 32
    """Deepest nesting of JSON that a client may send."""
    max_json_keys: Count = 5_000
    """Most keys, in all objects together, of JSON that a client may send."""
    max_body_bytes: Count = 256 * 1024
    """Largest body of an HTTP request."""
    max_queue_bytes: Count = 1024 * 1024
    """Data that may wait for a client that reads too slowly; beyond it the connection is closed."""
    max_messages_per_minute: Count = 600
    """Frames and HTTP requests that a user may send to an instance per minute, as an average."""
    max_message_burst: Count = 100
    """Frames and HTTP requests that a user may send to an instance at once."""
    max_requests_per_connection: Count = 32
    """Unanswered requests per connection."""
    max_requests_per_user: Count = 64
    """Unanswered requests per user and instance, over all connections and HTTP."""
    max_connections: Count = 20_000
    """Connections of a process: HTTP, event streams and WebSockets. More are answered with 503.
    Lowered if the process may not open enough files (`ulimit -n`)."""
    max_handshakes_per_second: Annotated[int, Field(ge=0)] = 1000
    """WebSockets and event streams that may be opened per second and process, as an average; ten
    times as many at once. 0: no limit."""
    max_handshakes_per_second_per_address: Annotated[int, Field(ge=0)] = 100
    """The same from one IP address, or from one /64 network of IPv6. Behind a proxy that does not
    pass the client's address, this is the address of the proxy. 0: no limit."""
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
    require_declared_events: bool = False
    """Refuse to send events that no feature declares (`RealtimeRouter.emits`), and payloads that
    differ from the declared ones."""
    presence_grace_seconds: Annotated[float, Field(ge=0)] = 5
    """A user counts as offline after being disconnected for this time."""
    pubsub_probe_seconds: Seconds = 5
    """Interval of the probes that check the pub/sub connection; after three lost probes it is
    reconnected."""

    user_check_seconds: Annotated[float, Field(gt=0, le=1800)] = 1800
    """Within this time the app is asked again whether a connected user is still allowed
    (`Bff(still_allowed=…)`). At most half an hour."""
    audit_retention_days: Count = 90
    """How long the entries of the audit log are kept in the database."""

    mesh_token_secret: Annotated[SecretStr | None, BlankIsNone] = None
    """HS256 secret of the short-lived tokens that services receive with each call. Empty:
    `JWT_SECRET`, but in production and with `JWKS_URL` services receive no token. A service that
    knows the secret can sign such tokens, so it must not be `JWT_SECRET`."""
    mesh_token_seconds: Count = 60
    """Lifetime of these tokens."""
    mesh_token_keys: Names = ("Authorization",)
    """Keys of a call's `context` that hold the token, separated by commas. Services written for
    `nuropb_gw` expect `Authorisation`."""
    mesh_token_prefix: str = ""
    """Text before the token in the `context`, for example `Bearer `. NuroPb services expect
    none."""
    mesh_private_key_file: RsaKeyFile = None
    """Path of an RSA key in PEM, of at least 2048 bits and without a password, for encrypted calls
    of other services to the BFF."""

    @property
    def development(self) -> bool:
        return self.environment == "development"

    @property
    def prefix(self) -> str:
        """Prefix of every Redis key. It contains a version, so that old and new instances can run
        side by side during a rolling update."""
        return f"{self.app_name}:v1"

    @property
    def revocation_seconds(self) -> int:
        """How long a revocation is kept: longer than a token or a session may live."""
        return max(self.max_token_seconds, self.max_session_seconds) + _CLOCK_SECONDS

    @property
    def embedded(self) -> bool:
        """Whether Redis, RabbitMQ or the identity provider is replaced by one inside this
        process."""
        return "memory://" in (self.redis_url, self.amqp_url, self.oidc_issuer)

    @property
    def unused_topic_seconds(self) -> int:
        """How long the position of a topic without a message is kept. Clients choose topics, so
        this is not a day; the checks of live streams renew it."""
        return max(self.stream_retention_seconds, 3 * ceil(self.stream_check_seconds))

    @property
    def max_connects_per_minute(self) -> int:
        """Connects that a user may make within a minute, over all instances."""
        return max(_MIN_CONNECTS_PER_MINUTE, 6 * self.max_connections_per_user)

    @property
    def mesh_secret(self) -> str | None:
        """The secret that signs mesh tokens; None if services receive no token."""
        secret = self.mesh_token_secret
        if secret is None and self.environment != "production":
            secret = self.jwt_secret
        return None if secret is None else secret.get_secret_value()

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The secrets that verify tokens, the current one first."""
        secrets = (self.jwt_secret, self.jwt_previous_secret)
        return tuple(secret.get_secret_value() for secret in secrets if secret is not None)

    @property
    def serves_api_docs(self) -> bool:
        """Whether `/docs`, `/openapi.json` and `/asyncapi.json` are served."""
        return self.environment != "production" if self.api_docs is None else self.api_docs

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.jwt_secret is None and self.jwks_url is None and self.oidc_issuer is None:
            raise ValueError(
                "set JWT_SECRET, JWKS_URL or OIDC_ISSUER: without one, no user can sign in"
            )
        if self.jwt_previous_secret is not None and self.jwt_secret is None:
            raise ValueError("JWT_PREVIOUS_SECRET is only for the rotation of JWT_SECRET: set both")
        if self.oidc_issuer not in (None, "memory://"):
            self._check_client()
        if not self.jwt_algorithms:
            raise ValueError("JWT_ALGORITHMS is empty: name at least one")
        supported = HMAC_ALGORITHMS if self.jwks_url is None else PUBLIC_KEY_ALGORITHMS
        if set(self.jwt_algorithms) - set(supported):
            source = "JWT_SECRET" if self.jwks_url is None else "JWKS_URL"
            raise ValueError(f"JWT_ALGORITHMS: with {source} use only {', '.join(supported)}")
        if self.jwt_audience == MESH_AUDIENCE:
            raise ValueError(
                "JWT_AUDIENCE must not be mesh: that is the audience of the tokens for services, "
                "which could then sign in as users"
            )
        if self.lease_renewal_seconds * 2 > self.lease_seconds:
            raise ValueError("LEASE_SECONDS must be at least twice LEASE_RENEWAL_SECONDS")
        if self.request_timeout_seconds > self.max_request_timeout_seconds:
            raise ValueError("REQUEST_TIMEOUT_SECONDS is larger than MAX_REQUEST_TIMEOUT_SECONDS")
        return self

    def _check_client(self) -> None:
        if not self.oidc_client_id:
            raise ValueError("OIDC_CLIENT_ID must be set with OIDC_ISSUER")
        if (self.oidc_client_secret is None) == (self.oidc_private_key_file is None):
            raise ValueError("with OIDC_ISSUER set OIDC_CLIENT_SECRET or OIDC_PRIVATE_KEY_FILE")
        if "openid" not in self.oidc_scopes:
            raise ValueError("OIDC_SCOPES must contain openid")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.environment != "production":
            return self
        if self.embedded:
            raise ValueError(
                "memory:// is for development: production needs Redis, RabbitMQ and, for sign-in, "
                "an identity provider"
            )
        for url_name in ("oidc_issuer", "oidc_redirect_uri"):
            url: str | None = getattr(self, url_name)
            if url is not None and not url.startswith("https://") and not is_local(url):
                raise ValueError(f"{url_name.upper()} must begin with https:// in production")
        for name in ("jwt_secret", "jwt_previous_secret", "mesh_token_secret"):
            value: SecretStr | None = getattr(self, name)
            if value is not None and (fault := secret_fault(value.get_secret_value())):
                raise ValueError(f"{name.upper()} {fault}")
        mesh_secret = self.mesh_token_secret
        if mesh_secret is not None and mesh_secret.get_secret_value() in self.jwt_secrets:
            raise ValueError(
                "MESH_TOKEN_SECRET must differ from JWT_SECRET and JWT_PREVIOUS_SECRET: services "
                "that know it could sign tokens of users"
            )
        if self.jwks_url is not None:
            if not self.jwks_url.startswith("https://") and not is_local(self.jwks_url):
                raise ValueError(
                    "JWKS_URL must begin with https:// in production: over http:// the keys can be "
                    "replaced on the way"
                )
            if self.jwt_issuer is None:
                raise ValueError(
                    "JWT_ISSUER must be set with JWKS_URL in production: otherwise tokens of every "
                    "issuer with these keys are accepted"
                )
        return self


class LoadSettings(Protocol):
    """Reads the settings of the app. Commands get it as the object of click's context."""

    def __call__(self, env_file: str = ".env") -> Settings: ...

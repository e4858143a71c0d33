"""Messages of the mesh as transports and client see them, independent of the message format."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

from bff.mesh import encryption
from bff.mesh.encryption import PublicKey

Context: TypeAlias = dict[str, Any]
"""On whose behalf a call is made. Set by the calling service, which the mesh trusts."""


class MalformedMessage(Exception):
    """A received message cannot be decoded."""


class Kind(StrEnum):
    """The type of a message."""

    REQUEST = "request"
    COMMAND = "command"
    EVENT = "event"
    RESPONSE = "response"


class _EncryptionKey(Protocol):
    def encrypt(self, text: bytes, key: bytes) -> bytes: ...


@dataclass(slots=True)
class Message:
    """One message to send. The transport adds the name of its current reply queue."""

    kind: Kind
    routing_key: str
    """The name of a service, the topic of an event, or the reply queue of a caller."""
    body: bytes
    correlation_id: str
    trace_id: str
    deadline: float
    """When the sender stops waiting, by the event loop's clock."""
    headers: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    """The method that a call is for; for the log."""
    sent: bool = False
    """Set by the transport as soon as the broker may have received the message."""
    confirm: asyncio.Future[None] | None = None
    """Set by the transport: done when the broker has the message. A reply proves that too."""
    reply_key: bytes | None = None
    """The Fernet key of an encrypted call and of its reply."""

    @property
    def is_call(self) -> bool:
        """Whether this is a request or a command, which must reach a service."""
        return self.kind is Kind.REQUEST or self.kind is Kind.COMMAND

    @property
    def expiration(self) -> str | None:
        """The AMQP expiration: milliseconds until the deadline. Only calls expire."""
        if not self.is_call:
            return None
        left = self.deadline - asyncio.get_running_loop().time()
        return str(max(1, int(left * 1000)))

    def encrypt(self, recipient: _EncryptionKey, key: bytes) -> None:
        """Encrypt the body with a Fernet key, and that key for the recipient."""
        self.body = recipient.encrypt(self.body, key)
        self.headers = {**self.headers, "encrypted": "yes"}
        self.reply_key = key

    def encrypt_for(self, service: PublicKey) -> None:
        """Encrypt a call with a new Fernet key, so that only this service can read it."""
        self.encrypt(service, encryption.new_key())


@dataclass(frozen=True, slots=True)
class Delivery:
    """One received message, with the ids of its AMQP properties and headers."""

    routing_key: str
    body: bytes
    correlation_id: str
    trace_id: str | None = None
    kind: str = ""
    reply_to: str = ""
    deliveries: int = 0
    """How often a quorum queue has delivered the message before."""
    on_settled: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)
    """`MeshEvent.on_settled` or `MeshRequest.on_settled`."""

    @property
    def id(self) -> str:
        """Unique, and the same at each redelivery: correlation id and digest of the body.

        Without a correlation id it is random, because two equal messages can be two events.
        """
        prefix = self.correlation_id or secrets.token_hex(16)
        return f"{prefix}.{blake2b(self.body, digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True)
class MeshRequest:
    """A request or a command as its caller sent it."""

    method: str
    params: dict[str, Any]
    context: Context
    trace_id: str | None
    correlation_id: str
    """The caller's. It can be empty, and callers can use one for several calls."""
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    """Unique, and the same at each redelivery: correlation id and digest of the body."""
    on_settled: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)
    """As `MeshEvent.on_settled`, for a call."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request, without the context that NuroPb echoes."""

    result: Any = None
    error: dict[str, Any] | None = None

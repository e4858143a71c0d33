"""Messages of the mesh as transports and client see them, whatever they look like inside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from bff.mesh import encryption
from bff.mesh.encryption import PublicKey

Context: TypeAlias = dict[str, Any]
"""In whose name a call is made: set by its caller, whom the mesh trusts."""


class MalformedMessage(Exception):
    """What arrived is no message that can be understood."""


class Kind(StrEnum):
    """What a message is for."""

    REQUEST = "request"
    COMMAND = "command"
    EVENT = "event"
    RESPONSE = "response"


class _Seals(Protocol):
    def seal(self, text: bytes, key: bytes) -> bytes: ...


@dataclass(slots=True)
class Message:
    """One message to send. The transport adds the reply queue of its present connection."""

    kind: Kind
    routing_key: str
    """A service's name, an event's topic, or the queue of whoever waits for a reply."""
    body: bytes
    correlation_id: str
    trace_id: str
    deadline: float
    """When its sender gives up, by the event loop's clock."""
    headers: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    """What of the service is called, for the log."""
    sent: bool = False
    """Set by the transport as soon as the broker may have it."""
    key: bytes | None = None
    """Opens the reply of a call that was sealed."""

    @property
    def is_call(self) -> bool:
        """Whether it must find a service."""
        return self.kind is Kind.REQUEST or self.kind is Kind.COMMAND

    @property
    def expiration(self) -> str | None:
        """What is left of the sender's time, in ms; only calls expire."""
        if not self.is_call:
            return None
        left = self.deadline - asyncio.get_running_loop().time()
        return str(max(1, int(left * 1000)))

    def seal(self, sealing: _Seals, key: bytes) -> None:
        """Make the body readable for one service alone, or for who made its call."""
        self.body = sealing.seal(self.body, key)
        self.headers = {**self.headers, "encrypted": "yes"}
        self.key = key

    def seal_for(self, service: PublicKey) -> None:
        """Make a call that only that service can read."""
        self.seal(service, encryption.new_key())


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that arrived; the ids are those of its properties and headers."""

    routing_key: str
    body: bytes
    correlation_id: str
    trace_id: str | None = None
    kind: str = ""
    reply_to: str = ""


@dataclass(frozen=True, slots=True)
class MeshRequest:
    """A request or command as its caller sent it."""

    method: str
    params: dict[str, Any]
    context: Context
    trace_id: str | None
    correlation_id: str
    """The same when the broker delivers it again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request; the request's context, which it echoes, is left out."""

    result: Any = None
    error: dict[str, Any] | None = None

"""What carries the messages of the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery, Message
from bff.mesh.service import Service


class Unroutable(Exception):
    """No queue took the message: there is no such service, or it takes no more."""


class ConnectionLost(Exception):
    """The broker cannot be reached, or went away before it confirmed."""


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """Whether calls can be made; if not, why, in words for the operator."""

    connected: bool
    reason: str


class Receiver(Protocol):
    """What a transport calls."""

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """A reply arrived."""

    def on_replies_lost(self) -> None:
        """The reply queue is gone: nothing sent before will be answered."""

    def on_status(self) -> None:
        """`status` changed."""

    async def on_event(self, event_handler: EventHandler, delivery: Delivery) -> bool:
        """An event arrived; True when it was taken, False when it belongs to the dead letters.

        Takes as long as the rule needs. A transport that is stopped or loses the event's queue
        cancels it, and the event comes again.
        """

    async def on_call(self, service: Service, delivery: Delivery) -> Message | None:
        """A call of a service of ours arrived; the reply to send, if there is one.

        Raises:
            MalformedMessage: it belongs to the dead letters.
        """


class MeshTransport(Protocol):
    """A way to the mesh."""

    async def start(
        self,
        receiver: Receiver,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
    ) -> None:
        """Begin to connect; does not wait for the broker."""

    async def stop(self) -> None:
        """Disconnect. Events and calls in work will come again."""

    async def publish(self, message: Message) -> None:
        """Hand a message to the broker; returns when the broker has confirmed it.

        While there is no connection it waits, without a limit of its own: the caller has one.

        Raises:
            Unroutable: no queue took it. Never for events and replies.
            ConnectionLost: the connection broke. With `message.sent` the broker may have it.
        """

    @property
    def status(self) -> MeshStatus:
        """Whether messages can be sent and answered now."""

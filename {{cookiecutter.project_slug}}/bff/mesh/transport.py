"""The interface of a transport, which carries the messages of the mesh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery, Message
from bff.mesh.service import Service


class Unroutable(Exception):
    """No queue is bound for the message (`basic.return`): no service has received it."""


class Nacked(Exception):
    """A queue refused the message (`basic.nack`). Another queue may have accepted it."""


class ConnectionLost(Exception):
    """The broker cannot be reached, or the connection ended before the confirm."""


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """Whether calls can be made."""

    connected: bool
    reason: str
    """Why not, for operators; empty when connected."""


class Receiver(Protocol):
    """The callbacks of a transport."""

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """A reply has arrived."""

    def on_replies_lost(self) -> None:
        """The reply queue no longer exists: requests sent before will get no reply."""

    def on_status(self) -> None:
        """`MeshTransport.status` has changed."""

    async def on_event(self, event_handler: EventHandler, delivery: Delivery) -> bool:
        """An event has arrived. True: it was handled. False: it is a dead letter.

        Takes as long as the event handler does. A transport that is stopped or loses the event's
        queue cancels this coroutine, and the event is delivered again.
        """

    async def on_call(self, service: Service, delivery: Delivery) -> Message | None:
        """A call of a service of this process has arrived. Returns the reply, None for a command.

        Raises:
            MalformedMessage: the message is a dead letter.
        """


class MeshTransport(Protocol):
    """A connection to a broker, or an in-process one."""

    async def start(
        self,
        receiver: Receiver,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
    ) -> None:
        """Begin to connect. Does not wait for the broker."""

    async def stop(self) -> None:
        """Disconnect. Events and calls that are being handled will be delivered again."""

    async def publish(self, message: Message) -> None:
        """Publish a message and wait for the broker's confirm.

        Waits while there is no connection. It has no timeout; the caller has one.

        Raises:
            Unroutable: no queue is bound for the call. Never for events and replies.
            Nacked: a queue refused the message, which another one may have accepted.
            ConnectionLost: the connection broke. If `message.sent`, the broker may have it.
        """

    @property
    def status(self) -> MeshStatus:
        """Whether messages can be sent and received now."""

    @property
    def consumers_down(self) -> Mapping[str, str]:
        """The queues that this process should consume and does not, each with the reason."""

    async def wait_until_rights_checked(self) -> None:
        """Wait until the broker has said whether this user may publish, which `status` includes
        from then on. It has no timeout; the caller has one."""

    async def check_queues(
        self, event_handlers: Sequence[EventHandler], services: Sequence[Service]
    ) -> Mapping[str, str]:
        """Try once what consuming for these needs, without consuming: for `bff doctor`, which
        starts the transport without any.

        Returns a reason for each queue, empty where nothing is wrong.
        """

    async def unconsumed_events(self, handler_names: Iterable[str]) -> Mapping[str, int]:
        """How many events wait in the queues of these event handlers: of those queues that exist
        and that have no consumer.

        Raises:
            ConnectionLost: the connection ended.
        """

"""The interface of a message format. NuroPb's is the module `nuropb.py`."""

from __future__ import annotations

from typing import Any, Protocol

from bff.errors import Problem
from bff.mesh.events import MeshEvent
from bff.mesh.messages import Context, Delivery, Kind, Message, Reply


class Codec(Protocol):
    """Five functions. A module that defines them is a codec too.

    The transport sets the AMQP properties `reply_to`, `correlation_id` and `expiration`, and
    matches replies to requests by `correlation_id`.
    """

    def call(
        self,
        kind: Kind,
        service: str,
        method: str,
        params: dict[str, Any],
        context: Context,
        trace_id: str,
        deadline: float,
    ) -> Message:
        """Encode a request or a command; `deadline` is a time of the event loop's clock.

        Raises:
            TypeError: the format cannot represent the parameters or the context.
        """

    def event(
        self,
        topic: str,
        payload: Any,
        context: Context,
        target: list[str] | None,
        trace_id: str,
        deadline: float,
    ) -> Message:
        """Encode an event.

        Raises:
            TypeError: the format cannot represent the payload or the context.
        """

    def decode_reply(self, body: bytes) -> Reply:
        """Decode the reply to a request.

        Raises:
            MalformedMessage: the body is not a reply.
        """

    def decode_event(self, delivery: Delivery) -> MeshEvent:
        """Decode an event.

        Raises:
            MalformedMessage: the body is not an event.
        """

    def problem(self, error: dict[str, Any], call: Message) -> Problem:
        """Convert the error of a reply to the error that the caller gets.

        Details that are for operators only belong in the log.
        """

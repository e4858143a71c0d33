"""What a message format has to offer: the face behind which NuroPb stands (`nuropb.py`)."""

from __future__ import annotations

from typing import Any, Protocol

from bff.errors import Problem
from bff.mesh.events import MeshEvent
from bff.mesh.messages import Context, Delivery, Kind, Message, Reply


class Codec(Protocol):
    """Five functions; a module that has them will do.

    The transport adds `reply_to`, `correlation_id` and `expiration` as AMQP properties, and pairs
    replies by their `correlation_id`.
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
        """A request or a command. Raises TypeError for what the format cannot hold."""

    def event(
        self,
        topic: str,
        payload: Any,
        context: Context,
        target: list[str] | None,
        trace_id: str,
        deadline: float,
    ) -> Message:
        """An event. Raises TypeError for what the format cannot hold."""

    def decode_reply(self, body: bytes) -> Reply:
        """The reply to a request. Raises MalformedMessage."""

    def decode_event(self, delivery: Delivery) -> MeshEvent:
        """An event. Raises MalformedMessage."""

    def problem(self, error: dict[str, Any], call: Message) -> Problem:
        """What the error of a reply means to the caller. What helps only operators goes to the
        log."""

"""Turns what an app sends, a declared event or a topic with a payload, into a message."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from bff.connections.declared_events import DeclaredEvent, DeclaredEvents
from bff.connections.messages import Event
from bff.errors import Code, Problem
from bff.names import check_event_name, check_topic


class Outgoing(NamedTuple):
    """An event to send."""

    event: Event
    stored: bool
    """Whether clients that reconnect get it too."""


class OutgoingEvents:
    """Makes messages of the events that an app sends."""

    def __init__(self, declared: DeclaredEvents) -> None:
        self._declared = declared

    def of(self, topic: str | DeclaredEvent, event: Any, *, to_topic: bool = False) -> Outgoing:
        """The message: of a declared event, or of a topic and a payload. A payload may be a
        Pydantic model. `to_topic`: browsers must be able to subscribe to the topic.

        Raises:
            Problem: `invalid_params`: it is not a name; the model is not JSON; or events must be
                declared, and this one is not.
            ValueError: a declared event does not belong to this topic, or has a payload of another
                type.
        """
        if isinstance(topic, DeclaredEvent):
            if topic.type.is_pattern:
                raise ValueError(f"{topic.type.name} stands for many topics: name one of them")
            topic, event = topic.type.name, topic
        (check_topic if to_topic else check_event_name)(topic)
        if isinstance(event, DeclaredEvent):
            declared = event.type
            if not declared.matches(topic):
                raise ValueError(f"the event {declared.name} cannot be sent as {topic}")
            self._declared.check_type(declared)
            return Outgoing(Event(topic, declared.encode(event.payload)), declared.stored)
        found = self._declared.check(topic, event)
        if isinstance(event, BaseModel):
            event = _as_json(event)
        return Outgoing(Event(topic, event), found is None or found.stored)


def _as_json(model: BaseModel) -> orjson.Fragment:
    try:
        return orjson.Fragment(model.__pydantic_serializer__.to_json(model, by_alias=True))
    except PydanticSerializationError as error:
        raise Problem(Code.INVALID_PARAMS, "The event is not JSON") from error

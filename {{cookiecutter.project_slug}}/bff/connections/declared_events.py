"""Events that a feature declares: their names, the models of their payloads, whether they are
stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from bff.errors import Code, Problem, describe
from bff.names import EVENT_NAME_RULE, is_event_name, topic_matches

P = TypeVar("P")


class EventType(Generic[P]):
    """A declared event. Call it with a payload to get what `Messenger` sends."""

    __slots__ = ("_to_json", "_words", "adapter", "description", "name", "payload", "stored")

    def __init__(self, name: str, payload: type[P], *, stored: bool, description: str = "") -> None:
        """`name` is an event name, or a pattern of topics: `*` is one word between dots, `#` any
        number of words.

        Raises:
            ValueError: it is not a name.
        """
        if not is_event_name(name):
            raise ValueError(f"{name!r}: {EVENT_NAME_RULE}")
        self.name = name
        self.payload = payload
        self.stored = stored
        self.description = description
        self.adapter: TypeAdapter[P] = TypeAdapter(payload)
        self._to_json = self.adapter.serializer.to_json
        words = name.split(".")
        self._words = words if {"*", "#"} & set(words) else None

    def __call__(self, payload: P) -> DeclaredEvent:
        """The event with this payload."""
        return DeclaredEvent(self, payload)

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for many topics."""
        return self._words is not None

    def matches(self, topic: str) -> bool:
        """Whether an event of this topic is of this type."""
        if self._words is None:
            return topic == self.name
        return topic_matches(self._words, topic.split("."))

    def encode(self, payload: Any) -> orjson.Fragment:
        """The payload as JSON, by the names that the model's aliases give.

        Raises:
            ValueError: the payload is not of the declared type.
        """
        return orjson.Fragment(self._to_json(payload, by_alias=True, warnings="error"))


class DeclaredEvent:
    """An event to send: its type and its payload."""

    __slots__ = ("payload", "type")

    def __init__(self, type_: EventType[Any], payload: Any) -> None:
        self.type = type_
        self.payload = payload


class DeclaredEvents:
    """All events that an app declares."""

    def __init__(self, types: Iterable[EventType[Any]] = (), *, required: bool = False) -> None:
        """With `required`, events that are not declared are refused."""
        self._required = required
        self._by_name: dict[str, EventType[Any]] = {}
        self._patterns: list[EventType[Any]] = []
        for one in types:
            if one.is_pattern:
                self._patterns.append(one)
            else:
                self._by_name[one.name] = one
        compares = required or any(not one.stored for one in self._patterns)
        self._compared = self._patterns if compares else []
        """The patterns that a topic is compared with, in their order. None if the result would not
        matter: nothing is refused, and all are stored."""

    def _of(self, topic: str) -> EventType[Any] | None:
        found = self._by_name.get(topic)
        if found is None and self._compared:
            return next((one for one in self._compared if one.matches(topic)), None)
        return found

    def check(self, topic: str, event: Any) -> EventType[Any] | None:
        """The declared type of an event that was given as topic and payload. None if there is none,
        or if it would change nothing.

        Raises:
            Problem: `invalid_params`, when events must be declared and this one is not, or when
                its payload differs from the declared one.
        """
        declared = self._of(topic)
        if self._required:
            if declared is None:
                raise _not_declared(topic)
            try:
                declared.adapter.validate_python(event)
            except ValidationError as error:
                text = f"event {topic}: {describe(error)}"
                raise Problem(Code.INVALID_PARAMS, text) from None
        return declared

    def check_type(self, type_: EventType[Any]) -> None:
        """
        Raises:
            Problem: `invalid_params`, when events must be declared, and this type's router is not
                among those of the app.
        """
        known = type_ in self._patterns or self._by_name.get(type_.name) is type_
        if self._required and not known:
            raise _not_declared(type_.name)


def _not_declared(topic: str) -> Problem:
    return Problem(
        Code.INVALID_PARAMS,
        f"The event {topic} is not declared, which REQUIRE_DECLARED_EVENTS demands: declare it "
        "with `emits`, or with the payload of its topic",
    )

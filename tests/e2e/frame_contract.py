"""Compares every frame that a test's browser gets with the AsyncAPI document of the app."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from app import routes
from bff.contract.asyncapi import asyncapi
from bff.contract.contract import contract_of
from bff.realtime.router import RealtimeRouter
from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]


@cache
def _validators() -> Mapping[str, Draft7Validator]:
    """By message of the document. Features that tests add to the app are not in it: their frames
    are only compared with the general ones."""
    realtime = RealtimeRouter()
    for router in routes.REALTIME:
        realtime.include(router)
    document = asyncapi(contract_of(realtime, title="e2e", version="1", socket_path="/ws"))
    components = document["components"]
    return {
        name: Draft7Validator({**message["payload"], "components": components})
        for name, message in components["messages"].items()
    }


class FrameContract:
    """The frames of one connection."""

    def __init__(self) -> None:
        self._methods: dict[str, str] = {}
        """The method of each request, by trace id."""

    def sent(self, type_: str, payload: Mapping[str, Any]) -> None:
        """Remember which method a response belongs to."""
        if type_ == "request":
            trace_id, method = payload.get("trace_id"), payload.get("method")
            self._methods[str(trace_id)] = f"{payload.get('service')}.{method}"

    def check(self, frame: dict[str, Any]) -> None:
        """
        Raises:
            AssertionError: the frame is not what the document says.
        """
        general = str(frame.get("type"))
        payload = frame.get("payload") or {}
        name = general
        if general == "event":
            topic = str(payload.get("topic"))
            known = (topic, f"event.{topic}", f"topic.{topic}")
            name = next((one for one in known if one in _validators()), general)
        elif general == "response":
            name = f"{self._methods.pop(str(payload.get('trace_id')), '')}.response"
        validator = _validators().get(name) or _validators().get(general)
        assert validator is not None, f"the document has no frame {general}: {frame}"
        if (fault := best_match(validator.iter_errors(frame))) is not None:
            where = ".".join(map(str, fault.absolute_path))
            raise AssertionError(f"{frame} is not {name}: {where}: {fault.message}")

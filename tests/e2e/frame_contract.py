"""Compares the frames of a test's browser with the AsyncAPI document of the app."""

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
    """The frames of one connection: every frame that the browser gets, and every frame of its own
    that the BFF answers without an error. Tests send invalid frames too, on purpose."""

    def __init__(self) -> None:
        self._sent: dict[str, dict[str, Any]] = {}
        """The frames that await a response, by trace id."""

    def sent(self, type_: str, payload: Mapping[str, Any]) -> None:
        """Remember a frame until its response."""
        self._sent[str(payload.get("trace_id"))] = {"type": type_, "payload": dict(payload)}

    def check(self, frame: dict[str, Any]) -> None:
        """
        Raises:
            AssertionError: the frame, or the one that it answers, is not what the document says.
        """
        general = str(frame.get("type"))
        payload = frame.get("payload") or {}
        name = general
        if general == "event":
            topic = str(payload.get("topic"))
            known = (topic, f"event.{topic}", f"topic.{topic}")
            name = next((one for one in known if one in _validators()), general)
        elif general == "response":
            asked = self._sent.pop(str(payload.get("trace_id")), {"type": "", "payload": {}})
            method = "{service}.{method}".format_map(
                {"service": "", "method": "", **asked["payload"]}
            )
            if asked["type"] == "request":
                name = f"{method}.response"
            if asked["type"] and payload.get("error") is None:
                _validate(asked, f"{method}.{asked['type']}", f"{asked['type']}.in")
        _validate(frame, name, general)


def _validate(frame: dict[str, Any], name: str, general: str) -> None:
    validator = _validators().get(name) or _validators().get(general)
    assert validator is not None, f"the document has no frame {general}: {frame}"
    if (fault := best_match(validator.iter_errors(frame))) is not None:
        where = ".".join(map(str, fault.absolute_path))
        raise AssertionError(f"{frame} is not {name}: {where}: {fault.message}")

"""What a feature can declare, and the errors for invalid declarations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from bff.auth.caller import Caller
from bff.cluster.messenger import Messenger
from bff.errors import Code, Problem
from bff.mesh.client import MeshClient
from bff.mesh.events import MeshEvent
from bff.realtime.declarations import Method
from bff.realtime.exposure import Exposure
from bff.realtime.handlers import validate
from bff.realtime.router import RealtimeRouter
from fastapi import Depends
from pydantic import BaseModel

ALICE = Caller("alice", "Alice", frozenset({"orders"}), "", 0)


class Params(BaseModel):
    n: int


def shout(caller: Caller) -> str:
    return caller.username.upper()


def generator() -> Iterator[int]:
    yield 1


async def shout_twice(once: Annotated[str, Depends(shout)]) -> str:
    return once + once


def declared(realtime: RealtimeRouter, name: str) -> Method:
    target = realtime.targets[name]
    assert isinstance(target, Method)
    return target


async def test_parameters_are_injected_by_type_not_by_name() -> None:
    realtime = RealtimeRouter()

    @realtime.method("a.b")
    async def method(first: Caller, second: Params) -> tuple[str, int]:
        return first.user_id, second.n

    handler = declared(realtime, "a.b").handler
    params = validate(handler.params, {"n": 7})
    assert await handler({BaseModel: params, Caller: ALICE}) == ("alice", 7)


async def test_dependencies_can_have_dependencies() -> None:
    realtime = RealtimeRouter()

    @realtime.method("a.b")
    async def method(loud: Annotated[str, Depends(shout_twice)]) -> str:
        return loud

    assert await declared(realtime, "a.b").handler({Caller: ALICE}) == "ALICEALICE"


def test_invalid_parameters_raise_a_problem() -> None:
    with pytest.raises(Problem) as refusal:
        validate(Params, {"n": "x"})
    assert refusal.value.code is Code.INVALID_PARAMS


def test_a_parameter_that_cannot_be_injected_is_an_error_at_declaration() -> None:
    realtime = RealtimeRouter()

    async def unknown(x: int) -> None: ...

    async def two_models(a: Params, b: Params) -> None: ...

    def not_async(caller: Caller) -> None: ...

    async def event_in_method(event: MeshEvent) -> None: ...

    async def yields(x: Annotated[int, Depends(generator)]) -> None: ...

    named: dict[Any, str] = {
        unknown: "unknown",
        two_models: "two_models",
        not_async: "not_async",
        event_in_method: "event_in_method",
        yields: "generator",
    }
    for function, name in named.items():
        with pytest.raises(TypeError, match=name):
            realtime.method(f"a.{function.__name__}")(function)


def test_an_event_handler_can_take_the_event() -> None:
    realtime = RealtimeRouter()

    @realtime.event("orders.*.updated", name="order-updated")
    async def handle(event: MeshEvent, messenger: Messenger, mesh: MeshClient) -> None: ...

    assert realtime.event_handlers["order-updated"].topic == "orders.*.updated"


def test_declaring_a_method_twice_is_an_error() -> None:
    one, two = RealtimeRouter(), RealtimeRouter()
    for realtime in (one, two):
        realtime.expose("orders", methods=["list"], scopes=["orders"])
    with pytest.raises(ValueError, match=r"orders\.list"):
        one.include(two)


def test_names_with_dots_are_not_split_at_another_dot() -> None:
    """`shop` with `admin.refund` and `shop.admin` with `refund` are the same text."""
    realtime, other = RealtimeRouter(), RealtimeRouter()
    other.expose("shop", methods=["admin.refund"], scopes=["clerk"])
    realtime.include(other)
    realtime.expose("shop.admin", methods=["*"], scopes=["boss"])
    clerks, bosses = realtime.find("shop", "admin.refund"), realtime.find("shop.admin", "refund")
    assert isinstance(clerks, Exposure)
    assert isinstance(bosses, Exposure)
    assert (set(clerks.scopes), set(bosses.scopes)) == ({"clerk"}, {"boss"})
    assert other.find("shop.admin", "refund") is None


def test_only_named_methods_are_exposed() -> None:
    realtime = RealtimeRouter()
    realtime.expose("orders", methods=["list"], scopes=["orders"])
    assert realtime.targets == {"orders.list": Exposure(frozenset({"orders"}))}


def test_a_method_name_consists_of_service_and_method() -> None:
    with pytest.raises(ValueError, match="<service>"):
        RealtimeRouter().method("watch")

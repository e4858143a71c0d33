"""What a feature can declare, and the errors for invalid declarations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
from bff.settings import Settings
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
    async def method(loud: Annotated[str, "a note", Depends(shout_twice)]) -> str:
        return loud

    assert await declared(realtime, "a.b").handler({Caller: ALICE}) == "ALICEALICE"


def test_invalid_parameters_raise_a_problem() -> None:
    with pytest.raises(Problem) as refusal:
        validate(Params, {"n": "x"})
    assert refusal.value.code is Code.INVALID_PARAMS


def test_a_parameter_that_cannot_be_injected_is_an_error_at_declaration() -> None:
    realtime = RealtimeRouter()

    async def unknown(x: int) -> None: ...

    async def no_class(x: Params | None) -> None: ...

    async def two_models(a: Params, b: Params) -> None: ...

    def not_async(caller: Caller) -> None: ...

    async def event_in_method(event: MeshEvent) -> None: ...

    async def yields(x: Annotated[int, Depends(generator)]) -> None: ...

    async def nothing_named(x: Annotated[int, Depends()]) -> None: ...

    named: dict[Any, str] = {
        unknown: "unknown",
        no_class: "no_class",
        two_models: "two_models",
        not_async: "not_async",
        event_in_method: "event_in_method",
        yields: "generator",
        nothing_named: "nothing_named",
    }
    for function, name in named.items():
        with pytest.raises(TypeError, match=name):
            realtime.method(f"a.{function.__name__}")(function)

    async def takes_params(params: Params) -> bool:
        return True

    for declare in (realtime.topic("a"), realtime.event("a", name="a")):
        with pytest.raises(TypeError, match="takes_params"):
            declare(takes_params)


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


class Clock:
    """A class of the app, which only `Bff(provide=...)` can provide."""


async def takes_a_clock(clock: Clock) -> bool:
    return True


Declare = Callable[[RealtimeRouter], object]
KINDS: dict[str, Declare] = {
    "method 'a.b'": lambda router: router.method("a.b")(takes_a_clock),
    "method 'a.c'": lambda router: router.expose("a", methods=["c"], check=takes_a_clock),
    "pattern 'a.*'": lambda router: router.expose("a", methods=["*"], check=takes_a_clock),
    "mesh method 'b'": lambda router: router.mesh_method("b")(takes_a_clock),
    "topic pattern 'a.#'": lambda router: router.topic("a.#")(takes_a_clock),
    "named 'handler'": lambda router: router.event("a", name="handler")(takes_a_clock),
}
"""What a router can declare with a function, by how an error names it."""
EVENT: dict[str, Declare] = {"event 'paid'": lambda router: router.emits("paid", str)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_part_of_the_app_provides_is_an_error_at_the_start(kind: str) -> None:
    realtime = RealtimeRouter()
    is_exposure = kind in ("method 'a.c'", "pattern 'a.*'")
    assert KINDS[kind](realtime) is (None if is_exposure else takes_a_clock)
    with pytest.raises(TypeError, match=r"takes_a_clock .* type Clock: provide it"):
        realtime.check_injection({Messenger})
    realtime.check_injection({Messenger, Clock})


@pytest.mark.parametrize("kind", KINDS | EVENT)
def test_a_router_offers_what_another_declares_and_two_of_a_kind_are_an_error(kind: str) -> None:
    one, app = RealtimeRouter(), RealtimeRouter()
    (KINDS | EVENT)[kind](one)
    app.include(one)
    assert app == one
    with pytest.raises(ValueError, match=re.escape(kind)):
        app.include(one)


def test_the_first_of_several_patterns_applies_also_after_an_include() -> None:
    app, other = RealtimeRouter(), RealtimeRouter()
    app.expose("shop", methods=["get_*"], scopes=["first"])
    other.expose("shop", methods=["*"], scopes=["second"])
    app.include(other)
    for method, scope in (("get_all", "first"), ("put", "second")):
        found = app.find("shop", method)
        assert found is not None
        assert set(found.scopes) == {scope}
    assert app.find("other", "put") is None


def test_payloads_of_topics_are_declared_unless_the_event_is() -> None:
    realtime = RealtimeRouter()
    for pattern, payload in (("rooms.*", str), ("lobby", str), ("silent", None)):

        @realtime.topic(pattern, payload=payload)
        async def allow() -> bool:
            return True

    typing = realtime.emits("lobby", int, stored=False)
    found = realtime.declared_events()
    assert [one.name for one in found] == ["lobby", "rooms.*"]
    assert found[0] is typing
    assert [one.stored for one in found] == [False, True]
    assert [realtime.has_topic(name) for name in ("rooms.a", "silent", "rooms")] == [
        True,
        True,
        False,
    ]


async def test_a_method_may_take_what_the_app_provides_beside_its_parameters(
    settings: Settings,
) -> None:
    """Settings are a Pydantic model too."""
    realtime = RealtimeRouter()

    @realtime.method("a.b")
    async def method(own: Settings, params: Params, clock: Clock) -> tuple[str, int, Clock]:
        return own.app_name, params.n, clock

    found = declared(realtime, "a.b").handler
    assert found.params is Params
    clock = Clock()
    arguments: dict[type, Any] = {Settings: settings, BaseModel: Params(n=7), Clock: clock}
    assert await found(arguments) == (settings.app_name, 7, clock)

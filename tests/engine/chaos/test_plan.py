"""The same seed breaks the same things at the same times."""

from __future__ import annotations

import pytest

from tests.chaos.plan import (
    ALL_INSTANCES,
    INSTANCES,
    NODES,
    ON_INSTANCES,
    ON_LINKS,
    Action,
    RedisKind,
    links,
    plan,
)


def test_a_plan_is_a_function_of_its_seed() -> None:
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = plan(7, 60)
    assert plan(7, 600)[: len(short)] == short


def test_a_minute_has_every_kind_of_fault_whatever_the_seed() -> None:
    for seed in range(200):
        faults = plan(seed, 60)
        assert {fault.action for fault in faults} == set(Action)
        assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
        assert faults[-1].at < 60


@pytest.mark.parametrize("redis", RedisKind)
def test_each_action_is_done_to_what_it_can_be_done_to(redis: RedisKind) -> None:
    for fault in plan(7, 1000, redis):
        targets = {*INSTANCES, *NODES[redis], "rabbitmq"}
        if fault.action in ON_LINKS:
            targets = {*links(redis)}
        elif fault.action is Action.REPLACE:
            targets = {ALL_INSTANCES}
        elif fault.action in ON_INSTANCES and fault.action is not Action.FREEZE:
            targets = {*INSTANCES}
        assert fault.target in targets, fault


def test_only_one_server_can_have_a_proxy_before_it() -> None:
    assert {link.partition("-")[2] for link in links(RedisKind.SERVER)} == {"redis", "rabbitmq"}
    for redis in (RedisKind.CLUSTER, RedisKind.SENTINEL):
        assert {link.partition("-")[2] for link in links(redis)} == {"rabbitmq"}

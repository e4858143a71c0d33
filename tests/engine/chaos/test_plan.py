"""The same seed breaks the same things at the same times."""

from __future__ import annotations

from tests.chaos.plan import INSTANCES, LINKS, ON_INSTANCES, ON_LINKS, SERVERS, Action, plan


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


def test_each_action_is_done_to_what_it_can_be_done_to() -> None:
    for fault in plan(7, 1000):
        targets = {*INSTANCES, *SERVERS}
        if fault.action in ON_LINKS:
            targets = {*LINKS}
        elif fault.action in ON_INSTANCES and fault.action is not Action.FREEZE:
            targets = {*INSTANCES}
        assert fault.target in targets, fault

"""The faults of a run: a pure function of the seed, so that a failed run can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

INSTANCES = ("a", "b", "c")
ALL_INSTANCES = "instances"

FIRST = 2.0
"""Seconds until the first fault."""
PAUSE = (1.5, 4.0)
"""Seconds between the starts of two faults."""
LENGTH = (0.5, 6.0)
"""How many seconds a fault lasts: shorter or longer than a lease."""


class RedisKind(StrEnum):
    """The Redis of a deployment."""

    SERVER = "server"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


class Action(StrEnum):
    """The kind of fault."""

    KILL = "killed with -9, started again"
    TERMINATE = "told to end with SIGTERM, started again"
    REPLACE = "replaced one after the other"
    FREEZE = "frozen"
    RESTART = "killed with -9, started again with its data"
    ROLL_BACK = "killed with -9, started again with older data"
    WIPE = "killed with -9, started again empty"
    UNSUBSCRIBE = "rid of its subscribers"
    CUT = "connections reset"
    SILENCE = "no bytes from the server"
    DEAFEN = "no bytes to the server"
    BLACK_HOLE = "no bytes either way"


ON_INSTANCES = (Action.KILL, Action.TERMINATE, Action.FREEZE)
ON_REDIS = (Action.RESTART, Action.ROLL_BACK, Action.WIPE, Action.FREEZE, Action.UNSUBSCRIBE)
ON_RABBITMQ = (Action.RESTART, Action.FREEZE)
ON_LINKS = (Action.CUT, Action.SILENCE, Action.DEAFEN, Action.BLACK_HOLE)

NODES = {
    RedisKind.SERVER: ("redis",),
    RedisKind.CLUSTER: ("redis-1", "redis-2", "redis-3"),
    RedisKind.SENTINEL: ("redis-master", "redis-replica", "redis-sentinel"),
}
"""The servers that make up each kind."""


def links(redis: RedisKind) -> tuple[str, ...]:
    """The connections of instances to servers that run through a proxy. The nodes of a cluster and
    a sentinel name their own addresses, so no proxy can be before them."""
    servers = ("redis", "rabbitmq") if redis is RedisKind.SERVER else ("rabbitmq",)
    return tuple(f"{instance}-{server}" for instance in INSTANCES for server in servers)


@dataclass(frozen=True)
class Fault:
    """One fault of one target, for some seconds."""

    number: int
    at: float
    target: str
    """An instance or all of them, a server, a node of Redis, or a link."""
    action: Action
    seconds: float
    then_cut: bool
    """For a link: whether it is reset at the end. Otherwise the delayed bytes arrive then."""

    def __str__(self) -> str:
        cut = ", then reset" if self.then_cut and self.action in ON_LINKS[1:] else ""
        length = "" if self.action is Action.REPLACE else f" ({self.seconds:.1f} s{cut})"
        return f"{self.target}: {self.action.value}{length}"


def plan(seed: int, seconds: float, redis: RedisKind = RedisKind.SERVER) -> list[Fault]:
    """The faults of a run, ordered by time.

    Every action comes up before any comes up again.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    deck: list[tuple[str, Action]] = []
    at = FIRST
    while at < seconds:
        deck = deck or _shuffled(chance, redis)
        target, action = deck.pop()
        faults.append(
            Fault(
                number=len(faults) + 1,
                at=round(at, 3),
                target=target,
                action=action,
                seconds=round(chance.uniform(*LENGTH), 3),
                then_cut=chance.random() < 0.5,
            )
        )
        at += chance.uniform(*PAUSE)
    return faults


def _shuffled(chance: random.Random, redis: RedisKind) -> list[tuple[str, Action]]:
    deck = [
        *((chance.choice(INSTANCES), action) for action in ON_INSTANCES),
        (ALL_INSTANCES, Action.REPLACE),
        *_on_redis(chance, redis),
        *(("rabbitmq", action) for action in ON_RABBITMQ),
        *((chance.choice(links(redis)), action) for action in ON_LINKS),
    ]
    chance.shuffle(deck)
    return deck


def _on_redis(chance: random.Random, redis: RedisKind) -> list[tuple[str, Action]]:
    if redis is not RedisKind.SENTINEL:
        return [(chance.choice(NODES[redis]), action) for action in ON_REDIS]
    return [
        ("redis-master", Action.RESTART),
        ("redis-master", Action.FREEZE),
        ("redis-master", Action.UNSUBSCRIBE),
        ("redis-replica", Action.RESTART),
        ("redis-sentinel", Action.RESTART),
    ]

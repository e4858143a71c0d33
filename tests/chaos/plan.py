"""The faults of a run: a pure function of the seed, so that a failed run can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

INSTANCES = ("a", "b", "c")
SERVERS = ("redis", "rabbitmq")
LINKS = tuple(f"{instance}-{server}" for instance in INSTANCES for server in SERVERS)
"""The connections between an instance and a server, which run through a proxy."""

FIRST = 2.0
"""Seconds until the first fault."""
PAUSE = (1.5, 4.0)
"""Seconds between the starts of two faults."""
LENGTH = (0.5, 6.0)
"""How many seconds a fault lasts: shorter or longer than a lease."""


class Action(StrEnum):
    """The kind of fault."""

    KILL = "killed with -9, started again"
    TERMINATE = "told to end with SIGTERM, started again"
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


@dataclass(frozen=True)
class Fault:
    """One fault of one target, for some seconds."""

    number: int
    at: float
    target: str
    """One of `INSTANCES`, `SERVERS` or `LINKS`."""
    action: Action
    seconds: float
    then_cut: bool
    """For a link: whether it is reset at the end. Otherwise the delayed bytes arrive then."""

    def __str__(self) -> str:
        cut = ", then reset" if self.then_cut and self.action in ON_LINKS[1:] else ""
        return f"{self.target}: {self.action.value} ({self.seconds:.1f} s{cut})"


def plan(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, ordered by time.

    Every action comes up before any comes up again.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    deck: list[tuple[str, Action]] = []
    at = FIRST
    while at < seconds:
        deck = deck or _shuffled(chance)
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


def _shuffled(chance: random.Random) -> list[tuple[str, Action]]:
    deck = [
        *((chance.choice(INSTANCES), action) for action in ON_INSTANCES),
        *(("redis", action) for action in ON_REDIS),
        *(("rabbitmq", action) for action in ON_RABBITMQ),
        *((chance.choice(LINKS), action) for action in ON_LINKS),
    ]
    chance.shuffle(deck)
    return deck

"""The guarantees that are checked, and their violations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Guarantee(StrEnum):
    """What the checker checks."""

    GAP = "no message is lost without a gap"
    GIVEN_UP = "no gap while the stream has all messages"
    ORDER = "messages are in order"
    TWICE = "no message is applied twice"
    STRANGER = "no message reaches another user"
    INDEX = "the index contains exactly the connected clients"
    HEALTH = "every process recovers after the faults"


@dataclass(frozen=True)
class Violation:
    """A violation: which guarantee, which client, when and how."""

    guarantee: Guarantee
    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:8.3f}  {self.guarantee.value}: {self.who}: {self.what}"

"""What must hold, and what is said when it does not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What must hold."""

    GAP = "no unannounced gap"
    GIVEN_UP = "nothing given up that is still there"
    ORDER = "no wrong order"
    TWICE = "no message applied twice"
    STRANGER = "no message to whom it is not for"
    INDEX = "the index names the living, and only them"
    HEALTH = "whole again when nothing is broken"


@dataclass(frozen=True)
class Violation:
    """A rule that did not hold, for whom, when and how."""

    rule: Rule
    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:8.3f}  {self.rule.value}: {self.who}: {self.what}"

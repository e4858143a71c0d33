"""Checks a history for violations of the delivery guarantees. No clock, no network, no files.

The guarantee (`docs/delivery.md` of a project): every recoverable message reaches each
connected or returning client of its user exactly once after de-duplication by id, in order, or the
client is told that it missed something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.checker.clients import Clients
from tests.chaos.checker.guarantees import Guarantee, Violation
from tests.chaos.checker.index import index_violations
from tests.chaos.checker.messages import Messages
from tests.chaos.history import DeadLettered, Record, Sick

__all__ = ["Guarantee", "Verdict", "Violation", "check"]


@dataclass(frozen=True)
class Verdict:
    """What the history shows."""

    violations: list[Violation]
    applied: int
    """Deliveries that clients applied."""
    recovered: int
    """Of these: messages that clients had missed and received later."""
    dropped: int
    """Deliveries that clients dropped as duplicates."""
    announcements: int
    """Gaps that clients received."""
    lost: int
    """Confirmed messages that clients missed and received a gap for, counted per client."""


def check(history: Sequence[Record], *, allowance: float, max_stream_length: int) -> Verdict:
    """What the history shows.

    `allowance`: seconds without a fault after which the index must be true, a little more than the
    lease and its renewal. `max_stream_length`: how many messages each stream holds.
    """
    messages = Messages(history)
    clients = Clients(messages, max_stream_length)
    for record in history:
        clients.note(record)
    violations = [
        *messages.violations,
        *clients.violations(),
        *index_violations(history, allowance),
        *_given_up(history),
    ]
    readers = list(clients.readers.values())
    return Verdict(
        violations=sorted(violations, key=lambda violation: violation.at),
        applied=sum(len(reader.applied) for reader in readers),
        recovered=sum(reader.recovered for reader in readers),
        dropped=sum(reader.dropped for reader in readers),
        announcements=sum(len(reader.skips) for reader in readers),
        lost=sum(reader.lost for reader in readers),
    )


def _given_up(history: Sequence[Record]) -> Iterator[Violation]:
    for record in history:
        match record:
            case DeadLettered():
                what = "is among the dead letters, where nobody reads it"
                yield Violation(Guarantee.GAP, record.at, f"message {record.message}", what)
            case Sick():
                yield Violation(Guarantee.HEALTH, record.at, record.process, record.reason)

"""The report of a run, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.chaos.checker import Verdict
from tests.chaos.history import Broke, Connected, Healed, Record

_MOST = 20
"""Maximum number of violations in the report."""


def text(history: Sequence[Record], verdict: Verdict) -> str:
    """The faults with their times, the counts, and the violations."""
    return "\n".join(
        [
            *_faults(history),
            "",
            *_figures(history, verdict),
            "",
            *_violations(verdict),
        ]
    )


def _faults(history: Sequence[Record]) -> list[str]:
    healed = {record.fault: record.at for record in history if isinstance(record, Healed)}
    return [
        f"{record.at:8.1f} to {healed.get(record.fault, record.at):6.1f} s  {record.what}"
        for record in history
        if isinstance(record, Broke)
    ]


def _figures(history: Sequence[Record], verdict: Verdict) -> list[str]:
    count = Counter(type(record).__name__ for record in history)
    connected = [record for record in history if isinstance(record, Connected)]
    clients = len({record.client for record in connected})
    transports = Counter(record.transport for record in connected)
    return [
        f"sent       {count['Sent']:6}  messages: {count['Taken']} confirmed, "
        f"{count['Unknown']} with unknown outcome, {count['Refused']} refused",
        f"delivered  {verdict.applied:6}  to {clients} clients on {transports['websocket']} "
        f"WebSockets and {transports['events']} event streams",
        f"recovered  {verdict.recovered:6}  of these after a return",
        f"dropped    {verdict.dropped:6}  that a client had already",
        f"lost       {verdict.lost:6}  and told, in {verdict.announcements} announcements",
    ]


def _violations(verdict: Verdict) -> list[str]:
    if not verdict.violations:
        return ["No violations."]
    more = len(verdict.violations) - _MOST
    return [
        f"{len(verdict.violations)} violations:",
        *(str(violation) for violation in verdict.violations[:_MOST]),
        *([f"and {more} more"] if more > 0 else []),
    ]

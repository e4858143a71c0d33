"""Checks the index in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.chaos.checker.guarantees import Guarantee, Violation
from tests.chaos.history import Broke, Connected, Died, Healed, Indexed, Left, Record


def index_violations(history: Sequence[Record], allowance: float) -> Iterator[Violation]:
    """After `allowance` seconds without a fault, the index contains exactly the connected clients.
    A repeated violation is reported once."""
    told: set[str] = set()
    faults: set[int] = set()
    quiet_since = 0.0
    process_of: dict[str, str] = {}
    dead: set[str] = set()
    opened: dict[str, tuple[str, float]] = {}
    left: dict[str, float] = {}
    for record in history:
        match record:
            case Broke():
                faults.add(record.fault)
            case Healed():
                faults.discard(record.fault)
                quiet_since = record.at
            case Connected():
                process_of[_instance(record.connection)] = record.process
                opened[record.client] = (record.connection, record.at)
            case Left() if record.client in opened:
                connection, _ = opened.pop(record.client)
                left[connection] = record.at
            case Died():
                dead.add(record.process)
                quiet_since = record.at
            case Indexed() if not faults and record.at - quiet_since >= allowance:
                gone = {name for name, process in process_of.items() if process in dead}
                border = record.at - allowance
                stale = {connection for connection, at in left.items() if at <= border}
                there = {connection for connection, at in opened.values() if at <= border}
                for what in _wrong(record, gone, stale, there):
                    if what not in told:
                        yield Violation(Guarantee.INDEX, record.at, "index", what)
                    told.add(what)


def _wrong(record: Indexed, gone: set[str], stale: set[str], there: set[str]) -> Iterator[str]:
    named = set(record.connections)
    for lease in record.leases:
        if _instance(lease) in gone:
            yield f"lease of {lease}, whose process has ended"
    instances = [_instance(lease) for lease in record.leases]
    for instance in {name for name in instances if instances.count(name) > 1}:
        yield f"{instance} has several leases: {' '.join(record.leases)}"
    for connection in sorted(named):
        if _instance(connection) in gone:
            yield f"{connection} of a process that has ended"
        elif connection in stale:
            yield f"{connection}, which has left"
    for connection in sorted(there - named):
        yield f"{connection} is not in it"


def _instance(name: str) -> str:
    """The instance of a lease `<instance>#<generation>` or a connection `<instance>.<random>`."""
    return name.partition("#")[0].partition(".")[0]

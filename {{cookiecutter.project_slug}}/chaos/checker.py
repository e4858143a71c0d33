"""Reads a history and says what was broken of the promise. Pure: no clock, no network, no files.

The promise (the template's `docs/topics/delivery.md`): every recoverable message reaches each
connected or returning client of its user exactly once after de-duplication by id, in order, or the
client is told that it missed something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from chaos.history import (
    Broke,
    Connected,
    DeadLettered,
    Delivered,
    Died,
    Gap,
    Healed,
    Id,
    Indexed,
    Left,
    Positioned,
    Record,
    Refused,
    Sent,
    Sick,
    Taken,
    Unknown,
    Unsubscribed,
)


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


@dataclass(frozen=True)
class Verdict:
    """What the history shows."""

    violations: list[Violation]
    applied: int
    """Deliveries that clients applied."""
    recovered: int
    """Of these: what clients had missed and got afterwards."""
    dropped: int
    """Deliveries that clients dropped, because they had them."""
    announcements: int
    """How often a client was told that a stream has lost something for it."""
    lost: int
    """Confirmed messages that a client did not get and was told of, each client counted."""


def check(history: Sequence[Record], *, allowance: float, stream_length: int) -> Verdict:
    """What the history shows.

    `allowance`: seconds without a fault after which the index must be true, a little more than the
    lease and its renewal. `stream_length`: how many messages each stream holds.
    """
    messages = _Messages(history)
    clients = _Clients(messages, stream_length)
    for record in history:
        clients.note(record)
    violations = [
        *messages.violations,
        *clients.violations(),
        *_index_violations(history, allowance),
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
                yield Violation(Rule.GAP, record.at, f"message {record.message}", what)
            case Sick():
                yield Violation(Rule.HEALTH, record.at, record.process, record.reason)


class _Messages:
    """What was sent, and what each id stands for."""

    def __init__(self, history: Sequence[Record]) -> None:
        self.violations: list[Violation] = []
        self.sent: dict[int, Sent] = {}
        self.taken: dict[int, Taken] = {}
        self._refused: dict[int, Refused] = {}
        self._unknown: set[int] = set()
        self._named: dict[tuple[str, Id], int] = {}
        self.by_stream: dict[str, list[int]] = defaultdict(list)
        for record in history:
            match record:
                case Sent():
                    self.sent[record.message] = record
                    self.by_stream[record.stream].append(record.message)
                case Taken():
                    self.taken[record.message] = record
                    if record.id is not None:
                        stream = self.sent[record.message].stream
                        self.name(record.at, stream, Id.parse(record.id), record.message)
                case Refused():
                    self._refused[record.message] = record
                case Unknown():
                    self._unknown.add(record.message)

    def name(self, at: float, stream: str, id: Id, message: int) -> None:
        """An id of a stream stands for one message, for everybody and for ever."""
        other = self._named.setdefault((stream, id), message)
        if other != message:
            what = f"{id} is message {other} and message {message}"
            self.violations.append(Violation(Rule.TWICE, at, stream, what))

    def in_order(self, message: int) -> bool:
        """Whether its place among the others of its way is known."""
        return message in self.taken

    def was_refused(self, message: int) -> bool:
        return message in self._refused


@dataclass(frozen=True)
class _Skip:
    """A client was told that it has lost what lies between."""

    at: float
    before: Id
    after: Id

    def covers(self, sent: Sent, id: Id | None) -> bool:
        """Whether a message may be missing because of this announcement."""
        if id is None:
            return sent.at <= self.at
        if id.epoch == self.before.epoch == self.after.epoch:
            return self.before.offset < id.offset <= self.after.offset
        if id.epoch == self.after.epoch:
            return id.offset <= self.after.offset
        return sent.at <= self.at


@dataclass
class _Reader:
    """One stream as one client has it."""

    client: str
    stream: str
    """Whose: `user:<user>`, `all` or `topic:<topic>`."""
    began: float
    base: Id
    position: Id
    missed_until: Id
    """What comes up to here was missed while the client was away."""
    applied: dict[int, Id] = field(default_factory=dict)
    ids: set[Id] = field(default_factory=set)
    skips: list[_Skip] = field(default_factory=list)
    on_socket: Id | None = None
    """The last that came on this socket."""
    since_skip: set[int] = field(default_factory=set)
    latest: dict[str, int] = field(default_factory=dict)
    """The last message of each way since the last announcement."""
    recovered: int = 0
    dropped: int = 0
    lost: int = 0

    def skip(self, at: float, after: Id) -> None:
        self.skips.append(_Skip(at, self.position, after))
        self.position = after
        self.since_skip.clear()
        self.latest.clear()

    def come(self, record: Delivered, messages: _Messages) -> Iterator[Violation]:
        """A message of this stream has come."""
        id = Id.parse(record.id)
        yield from self._on_socket(record, id)
        if not record.applied:
            self.dropped += 1
            return
        yield from self._place(record, id)
        yield from self._number(record, messages)
        self.position = id
        self.ids.add(id)
        self.applied[record.message] = id
        if id.epoch == self.missed_until.epoch and id.offset <= self.missed_until.offset:
            self.recovered += 1

    def _on_socket(self, record: Delivered, id: Id) -> Iterator[Violation]:
        last, self.on_socket = self.on_socket, id
        if last is None or id.epoch != last.epoch or id.offset > last.offset:
            return
        rule = Rule.TWICE if id in self.ids or id == last else Rule.ORDER
        yield self._broken(rule, record.at, f"{id} after {last} on the same socket")

    def _place(self, record: Delivered, id: Id) -> Iterator[Violation]:
        at, before = record.at, self.position
        if id in self.ids:
            yield self._broken(Rule.TWICE, at, f"{id} is applied again")
        elif id.epoch != before.epoch:
            yield self._broken(Rule.GAP, at, f"{before}, then without a word {id}")
        elif id.offset <= before.offset:
            yield self._broken(Rule.ORDER, at, f"{id} is applied after {before}")
        elif id.offset > before.offset + 1:
            missing = f"{id.offset - before.offset - 1} missing"
            yield self._broken(Rule.GAP, at, f"{before}, then {id}: {missing}")

    def _number(self, record: Delivered, messages: _Messages) -> Iterator[Violation]:
        """Between two announcements each message comes once, in the order of its sender."""
        at, message = record.at, record.message
        if message in self.since_skip:
            yield self._broken(Rule.TWICE, at, f"message {message} is applied under a second id")
        self.since_skip.add(message)
        if not messages.in_order(message):
            return
        way = messages.sent[message].way
        latest = self.latest.get(way, 0)
        if message < latest:
            what = f"message {message} comes after {latest}, both by {way}"
            yield self._broken(Rule.ORDER, at, what)
        self.latest[way] = max(latest, message)

    def lacks(self, messages: _Messages) -> Iterator[Violation]:
        """Each confirmed message of the stream was applied, or its loss was told."""
        for message in messages.by_stream[self.stream]:
            taken, sent = messages.taken.get(message), messages.sent[message]
            if taken is None or message in self.applied:
                continue
            id = None if taken.id is None else Id.parse(taken.id)
            if not self._concerns(sent, id):
                continue
            if any(skip.covers(sent, id) for skip in self.skips):
                self.lost += 1
            else:
                what = f"message {message} ({id or sent.way}) never came, and no word of it"
                yield self._broken(Rule.GAP, taken.at, what)

    def _concerns(self, sent: Sent, id: Id | None) -> bool:
        """Whether the message is later than the client's first position."""
        if id is not None and id.epoch == self.base.epoch:
            return id.offset > self.base.offset
        return sent.at > self.began

    def _broken(self, rule: Rule, at: float, what: str) -> Violation:
        return Violation(rule, at, self.client, what)


class _Clients:
    """What each client saw."""

    def __init__(self, messages: _Messages, stream_length: int) -> None:
        self._stream_length = stream_length
        self.readers: dict[tuple[str, str], _Reader] = {}
        self._messages = messages
        self._user: dict[str, str] = {}
        self._away: dict[str, float] = {}
        self._topics: dict[str, set[str]] = defaultdict(set)
        self._violations: list[Violation] = []

    def note(self, record: Record) -> None:
        match record:
            case Connected():
                self._user[record.client] = record.user
                self._away.pop(record.client, None)
                self._topics[record.client].clear()
                for reader in self._of(record.client):
                    reader.on_socket = None
            case Positioned():
                for text in record.positions.values():
                    self._position(record, Id.parse(text))
            case Unsubscribed():
                self._topics[record.client] -= {f"topic:{topic}" for topic in record.topics}
            case Gap():
                for text in record.positions.values():
                    self._gap(record, Id.parse(text))
            case Delivered():
                self._come(record)
            case Left():
                self._away[record.client] = record.at

    def violations(self) -> Iterator[Violation]:
        """What was broken, now that nothing more will come."""
        yield from self._violations
        for client, left in self._away.items():
            yield Violation(Rule.GAP, left, client, "left, and could never come back")
        for (client, stream), reader in self.readers.items():
            if client not in self._away and self._follows(client, stream):
                yield from reader.lacks(self._messages)

    def _position(self, record: Positioned, position: Id) -> None:
        client, stream = record.client, position.stream
        if stream.startswith("topic:"):
            self._topics[client].add(stream)
        reader = self.readers.get((client, stream))
        if reader is None:
            whole = self._whole(client, stream)
            self.readers[client, stream] = _Reader(
                client, whole, record.at, position, position, position
            )
            return
        reader.missed_until = position
        if stream not in record.since:
            reader.skip(record.at, position)
        elif record.recovered.get(stream) is False:
            self._announce(reader, record.at, position)

    def _gap(self, record: Gap, position: Id) -> None:
        reader = self.readers.get((record.client, position.stream))
        if reader is not None:
            self._announce(reader, record.at, position)

    def _announce(self, reader: _Reader, at: float, position: Id) -> None:
        before = reader.position
        missed = position.offset - before.offset
        if before.epoch == position.epoch and missed <= self._stream_length:
            what = f"told of a loss between {before} and {position}: the stream has it"
            self._violations.append(Violation(Rule.GIVEN_UP, at, reader.client, what))
        reader.skip(at, position)

    def _come(self, record: Delivered) -> None:
        id = Id.parse(record.id)
        reader = self.readers.get((record.client, id.stream))
        if stranger := self._stranger(record, id, reader):
            self._violations.append(Violation(Rule.STRANGER, record.at, record.client, stranger))
        elif reader is not None:
            self._violations.extend(reader.come(record, self._messages))
            self._messages.name(record.at, reader.stream, id, record.message)

    def _stranger(self, record: Delivered, id: Id, reader: _Reader | None) -> str:
        sent = self._messages.sent.get(record.message)
        if sent is None or self._messages.was_refused(record.message):
            return f"message {record.message} was never sent"
        if sent.stream != self._whole(record.client, id.stream):
            return f"message {record.message} is for {sent.stream}, and came as {id}"
        if reader is None or not self._follows(record.client, id.stream):
            return f"{id} without a subscription"
        return ""

    def _follows(self, client: str, stream: str) -> bool:
        return stream in ("user", "all") or stream in self._topics[client]

    def _whole(self, client: str, stream: str) -> str:
        return f"user:{self._user[client]}" if stream == "user" else stream

    def _of(self, client: str) -> Iterable[_Reader]:
        return [reader for (name, _), reader in self.readers.items() if name == client]


# The index


def _index_violations(history: Sequence[Record], allowance: float) -> Iterator[Violation]:
    """After `allowance` seconds without a fault the index holds exactly who is there. What is wrong
    time after time is told once."""
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
                        yield Violation(Rule.INDEX, record.at, "index", what)
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
    """Of a lease `<instance>#<generation>` or of a connection `<instance>.<random>`."""
    return name.partition("#")[0].partition(".")[0]

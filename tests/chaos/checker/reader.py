"""One client's view of one stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.checker.guarantees import Guarantee, Violation
from tests.chaos.checker.messages import Messages
from tests.chaos.history import Delivered, Id, Sent


@dataclass(frozen=True)
class Skip:
    """The client was notified that it lost the messages between two positions."""

    at: float
    before: Id
    after: Id
    announced: bool
    """Or the client restarted without positions."""

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
class Reader:
    """One client's view of one stream."""

    client: str
    stream: str
    """`user:<user>`, `all` or `topic:<topic>`."""
    began: float
    base: Id
    position: Id
    missed_until: Id
    """Messages up to this position were missed while the client was away."""
    applied: dict[int, Id] = field(default_factory=dict)
    ids: set[Id] = field(default_factory=set)
    skips: list[Skip] = field(default_factory=list)
    on_socket: Id | None = None
    """The last one received on this connection."""
    since_skip: set[int] = field(default_factory=set)
    latest: dict[str, int] = field(default_factory=dict)
    """The last message of each route since the last gap."""
    recovered: int = 0
    dropped: int = 0
    lost: int = 0

    def skip(self, at: float, after: Id, *, announced: bool = False) -> None:
        self.skips.append(Skip(at, self.position, after, announced))
        self.position = after
        self.since_skip.clear()
        self.latest.clear()

    def come(self, record: Delivered, messages: Messages) -> Iterator[Violation]:
        """A message of this stream was received."""
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
        rule = Guarantee.TWICE if id in self.ids or id == last else Guarantee.ORDER
        yield self._broken(rule, record.at, f"{id} after {last} on the same socket")

    def _place(self, record: Delivered, id: Id) -> Iterator[Violation]:
        at, before = record.at, self.position
        if id in self.ids:
            yield self._broken(Guarantee.TWICE, at, f"{id} is applied again")
        elif id.epoch != before.epoch:
            yield self._broken(Guarantee.GAP, at, f"{before}, then without a word {id}")
        elif id.offset <= before.offset:
            yield self._broken(Guarantee.ORDER, at, f"{id} is applied after {before}")
        elif id.offset > before.offset + 1:
            missing = f"{id.offset - before.offset - 1} missing"
            yield self._broken(Guarantee.GAP, at, f"{before}, then {id}: {missing}")

    def _number(self, record: Delivered, messages: Messages) -> Iterator[Violation]:
        """Between two gaps each message is received once, in the order of its sender."""
        at, message = record.at, record.message
        if message in self.since_skip:
            yield self._broken(Guarantee.TWICE, at, f"message {message} has a second id")
        self.since_skip.add(message)
        if not messages.in_order(message):
            return
        way = messages.sent[message].way
        latest = self.latest.get(way, 0)
        if message < latest:
            what = f"message {message} comes after {latest}, both by {way}"
            yield self._broken(Guarantee.ORDER, at, what)
        self.latest[way] = max(latest, message)

    def lacks(self, messages: Messages) -> Iterator[Violation]:
        """Each confirmed message of the stream was applied or covered by a gap."""
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
                yield self._broken(Guarantee.GAP, taken.at, what)

    def given_up(self, messages: Messages, max_stream_length: int) -> Iterator[Violation]:
        """There was no gap while the stream still had all that the client had missed."""
        for skip in self.skips:
            before, epoch = skip.before, skip.after.epoch
            if not skip.announced or before.epoch != epoch:
                continue
            newest = max(skip.after.offset, messages.newest(self.stream, epoch, skip.at))
            if newest - before.offset <= max_stream_length:
                what = f"told of a loss between {before} and {skip.after}: the stream has it"
                yield self._broken(Guarantee.GIVEN_UP, skip.at, what)

    def _concerns(self, sent: Sent, id: Id | None) -> bool:
        """Whether the message is later than the client's first position."""
        if id is not None and id.epoch == self.base.epoch:
            return id.offset > self.base.offset
        return sent.at > self.began

    def _broken(self, rule: Guarantee, at: float, what: str) -> Violation:
        return Violation(rule, at, self.client, what)

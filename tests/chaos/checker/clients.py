"""What each client saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.chaos.checker.guarantees import Guarantee, Violation
from tests.chaos.checker.messages import Messages
from tests.chaos.checker.reader import Reader
from tests.chaos.history import (
    Connected,
    Delivered,
    Gap,
    Id,
    Left,
    Positioned,
    Record,
    Unsubscribed,
)


class Clients:
    """What each client saw."""

    def __init__(self, messages: Messages, max_stream_length: int) -> None:
        self._stream_length = max_stream_length
        self.readers: dict[tuple[str, str], Reader] = {}
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
        """The violations, after the last delivery."""
        yield from self._violations
        for client, left in self._away.items():
            yield Violation(Guarantee.GAP, left, client, "left, and could never come back")
        for (client, stream), reader in self.readers.items():
            yield from reader.given_up(self._messages, self._stream_length)
            if client not in self._away and self._follows(client, stream):
                yield from reader.lacks(self._messages)

    def _position(self, record: Positioned, position: Id) -> None:
        client, stream = record.client, position.stream
        if stream.startswith("topic:"):
            self._topics[client].add(stream)
        reader = self.readers.get((client, stream))
        if reader is None:
            whole = self._whole(client, stream)
            self.readers[client, stream] = Reader(
                client, whole, record.at, position, position, position
            )
            return
        reader.missed_until = position
        if stream not in record.since:
            reader.skip(record.at, position)
        elif record.recovered.get(stream) is False:
            reader.skip(record.at, position, announced=True)

    def _gap(self, record: Gap, position: Id) -> None:
        reader = self.readers.get((record.client, position.stream))
        if reader is not None:
            reader.skip(record.at, position, announced=True)

    def _come(self, record: Delivered) -> None:
        id = Id.parse(record.id)
        reader = self.readers.get((record.client, id.stream))
        if stranger := self._stranger(record, id, reader):
            self._violations.append(
                Violation(Guarantee.STRANGER, record.at, record.client, stranger)
            )
        elif reader is not None:
            self._violations.extend(reader.come(record, self._messages))
            self._messages.name(record.at, reader.stream, id, record.message)

    def _stranger(self, record: Delivered, id: Id, reader: Reader | None) -> str:
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

    def _of(self, client: str) -> Iterable[Reader]:
        return [reader for (name, _), reader in self.readers.items() if name == client]

"""The sent messages, by number and by id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tests.chaos.checker.guarantees import Guarantee, Violation
from tests.chaos.history import Id, Record, Refused, Sent, Taken


class Messages:
    """The sent messages, by number and by id."""

    def __init__(self, history: Sequence[Record]) -> None:
        self.violations: list[Violation] = []
        self.sent: dict[int, Sent] = {}
        self.taken: dict[int, Taken] = {}
        self._refused: set[int] = set()
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
                    self._refused.add(record.message)

    def name(self, at: float, stream: str, id: Id, message: int) -> None:
        """An id identifies one message, always and for all clients."""
        other = self._named.setdefault((stream, id), message)
        if other != message:
            what = f"{id} is message {other} and message {message}"
            self.violations.append(Violation(Guarantee.TWICE, at, stream, what))

    def newest(self, stream: str, epoch: str, at: float) -> int:
        """The furthest position of a stream at that time: before the first message sent later."""
        placed = [
            (id.offset, self.sent[message].at <= at)
            for (name, id), message in self._named.items()
            if name == stream and id.epoch == epoch
        ]
        sooner = max((offset for offset, is_sooner in placed if is_sooner), default=0)
        later = min((offset for offset, is_sooner in placed if not is_sooner), default=sooner + 1)
        return max(sooner, later - 1)

    def in_order(self, message: int) -> bool:
        """Whether its order among the messages of its route is known."""
        return message in self.taken

    def was_refused(self, message: int) -> bool:
        return message in self._refused

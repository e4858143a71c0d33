"""The history of a run: a file of JSON lines, one per record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Self


class Id(NamedTuple):
    """The id of a stored message: `<stream>/<epoch>/<offset>`."""

    stream: str
    """The stream's name in the browser protocol: `user`, `all` or `topic:<topic>`."""
    epoch: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Raises:
            ValueError: it is no id.
        """
        stream, epoch, offset = text.rsplit("/", 2)
        return cls(stream, epoch, int(offset))

    def __str__(self) -> str:
        return f"{self.stream}/{self.epoch}/{self.offset}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Something that happened, `at` seconds after the start of the run."""

    at: float

    kinds: ClassVar[dict[str, type[Record]]] = {}

    def __init_subclass__(cls) -> None:
        Record.kinds[cls.__name__] = cls

    def to_json(self) -> str:
        return json.dumps({"kind": type(self).__name__, **asdict(self)})

    @staticmethod
    def from_json(line: str) -> Record:
        fields = json.loads(line)
        return Record.kinds[fields.pop("kind")](**fields)


# Messages


@dataclass(frozen=True, kw_only=True)
class Sent(Record):
    """A message is being sent; `Taken`, `Unknown` or `Refused` follows."""

    message: int
    stream: str
    """`user:<user>`, `all` or `topic:<topic>`."""
    way: str
    """The sending route. Messages of one route and stream are sent one after the other."""


@dataclass(frozen=True, kw_only=True)
class Taken(Record):
    """It was confirmed: every reader of the stream must receive it or a gap."""

    message: int
    id: str | None
    """The id under which it is stored, if the route returns it."""


@dataclass(frozen=True, kw_only=True)
class Unknown(Record):
    """The response is an error or missing: the message may be stored, now or later, or not."""

    message: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Refused(Record):
    """It was not sent."""

    message: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeadLettered(Record):
    """An event handler gave up: the event was dead-lettered."""

    message: int


# Clients


@dataclass(frozen=True, kw_only=True)
class Positioned(Record):
    """A client received positions, in a hello or in the response to a `subscribe`."""

    client: str
    since: dict[str, str]
    """The client's positions, by stream: it asked for the messages after them."""
    positions: dict[str, str]
    recovered: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class Connected(Record):
    """A client received its hello; `Positioned` follows."""

    client: str
    user: str
    process: str
    connection: str
    transport: str = "websocket"
    """`websocket` or `events`: an event stream."""


@dataclass(frozen=True, kw_only=True)
class Unsubscribed(Record):
    """The response to an `unsubscribe`."""

    client: str
    topics: list[str]


@dataclass(frozen=True, kw_only=True)
class Delivered(Record):
    """A client received a numbered message."""

    client: str
    id: str
    message: int
    applied: bool
    """False if the client dropped it as a duplicate."""


@dataclass(frozen=True, kw_only=True)
class Gap(Record):
    """A client received a `gap` with the positions to continue from."""

    client: str
    positions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Left(Record):
    """A client's connection was closed, by either side."""

    client: str
    code: int


# The deployment


@dataclass(frozen=True, kw_only=True)
class Broke(Record):
    """A fault starts."""

    fault: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Healed(Record):
    """A fault has ended."""

    fault: int


@dataclass(frozen=True, kw_only=True)
class Died(Record):
    """A process of an instance has ended."""

    process: str


@dataclass(frozen=True, kw_only=True)
class Sick(Record):
    """A process does not serve although all faults have ended."""

    process: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Indexed(Record):
    """The index in Redis: instances, users, connections."""

    leases: list[str]
    """`<instance>#<generation>`."""
    connections: list[str] = field(default_factory=list)


class History:
    """The records of a run, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def add(self, record: Record) -> None:
        self.records.append(record)
        self._file.write(record.to_json() + "\n")

    def close(self) -> None:
        self._file.close()


def read(lines: Iterable[str]) -> list[Record]:
    """The records of a file."""
    return [Record.from_json(line) for line in lines]

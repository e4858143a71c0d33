"""What happened in a run, one record after the other; a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Self


class Id(NamedTuple):
    """The id of a stored message: `<stream>/<epoch>/<offset>`."""

    stream: str
    """As browsers name it: `user`, `all` or `topic:<topic>`."""
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
    """Something that happened, `at` so many seconds after the beginning."""

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
    """A message is on its way; `Taken`, `Unknown` or `Refused` follows."""

    message: int
    stream: str
    """Whose: `user:<user>`, `all` or `topic:<topic>`."""
    way: str
    """By which way it is sent. Messages of one way and stream are sent one after the other."""


@dataclass(frozen=True, kw_only=True)
class Taken(Record):
    """It was confirmed: whoever reads the stream must get it, or be told of the loss."""

    message: int
    id: str | None
    """Where it is stored, if the way tells."""


@dataclass(frozen=True, kw_only=True)
class Unknown(Record):
    """The answer is an error, or there is none: the message may exist or not, now or later."""

    message: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Refused(Record):
    """It was certainly not sent."""

    message: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeadLettered(Record):
    """An event rule gave it up."""

    message: int


# Clients


@dataclass(frozen=True, kw_only=True)
class Positioned(Record):
    """A client was told where streams stand: by a hello, or by the answer to a `subscribe`."""

    client: str
    since: dict[str, str]
    """What the client has, by stream: it asked for what follows."""
    positions: dict[str, str]
    recovered: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class Connected(Record):
    """A client's hello has come; `Positioned` follows."""

    client: str
    user: str
    process: str
    connection: str


@dataclass(frozen=True, kw_only=True)
class Unsubscribed(Record):
    """The answer to an `unsubscribe`."""

    client: str
    topics: list[str]


@dataclass(frozen=True, kw_only=True)
class Delivered(Record):
    """A numbered message came to a client."""

    client: str
    id: str
    message: int
    applied: bool
    """False when the client had its position already, and dropped it."""


@dataclass(frozen=True, kw_only=True)
class Gap(Record):
    """A client was told that it missed something, and where to go on."""

    client: str
    positions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Left(Record):
    """A client's socket is closed, by whomever."""

    client: str
    code: int


# The deployment


@dataclass(frozen=True, kw_only=True)
class Broke(Record):
    """A fault begins."""

    fault: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Healed(Record):
    """What was broken is whole again."""

    fault: int


@dataclass(frozen=True, kw_only=True)
class Died(Record):
    """A process of an instance has ended."""

    process: str


@dataclass(frozen=True, kw_only=True)
class Sick(Record):
    """A process that does not serve although nothing is broken any more."""

    process: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Indexed(Record):
    """What Redis holds about who is connected."""

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

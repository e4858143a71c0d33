"""Positions in streams, as clients send and get them: `<stream>/<epoch>/<offset>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from bff.names import TOPIC

_ID = re.compile(rf"(user|all|topic:{TOPIC})/([0-9a-z]{{1,64}})/([0-9]{{1,15}})")


class Position(NamedTuple):
    """A position in a stream. Offsets of different epochs cannot be compared."""

    epoch: str
    """Identifies one numbering of the stream. A new epoch begins when messages may be lost."""
    offset: int
    """The number of the message in this epoch, from 1; 0 is the position before the first."""

    def id_in(self, stream: str) -> str:
        """The id that browsers see for the message at this position."""
        return f"{stream}/{self.epoch}/{self.offset}"

    @classmethod
    def parse(cls, message_id: str) -> tuple[str, Self]:
        """The stream and the position of an id. Names of streams may contain slashes.

        Raises:
            ValueError: the text is not an id.
        """
        found = _ID.fullmatch(message_id)
        if found is None:
            raise ValueError("not a position of the form <stream>/<epoch>/<offset>")
        return found[1], cls(found[2], int(found[3]))


def parse_cursor(text: str) -> dict[str, Position]:
    """Parse positions in several streams: ids joined by commas, or an empty text.

    Raises:
        ValueError: a part is not an id, or two parts are positions in the same stream.
    """
    found = [Position.parse(part) for part in text.split(",")] if text else []
    if len(dict(found)) < len(found):
        raise ValueError("two positions in the same stream")
    return dict(found)


def format_cursor(positions: Mapping[str, Position]) -> str:
    """The text that `parse_cursor` parses."""
    return ",".join(position.id_in(stream) for stream, position in positions.items())

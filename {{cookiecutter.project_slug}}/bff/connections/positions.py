"""How far a stream has come, and how far somebody has read it: `<stream>/<epoch>/<offset>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

TOPIC = re.compile(r"[^\s,\x00-\x1f\x7f]{1,255}")
"""What a topic may be called: its stream's id must fit into a cursor."""

_ID = re.compile(r"(user|all|topic:[^\s,\x00-\x1f\x7f]{1,255})/([0-9a-z]{1,64})/([0-9]{1,15})")


class Position(NamedTuple):
    """A place in a stream. Offsets of two epochs cannot be compared."""

    epoch: str
    """One life of the stream; a new one begins where what came before cannot be vouched for."""
    offset: int
    """How many messages the stream had in this epoch, the one at this place included."""

    def id_in(self, stream: str) -> str:
        """The id of the message at this place, as browsers have it."""
        return f"{stream}/{self.epoch}/{self.offset}"

    @classmethod
    def parse(cls, message_id: str) -> tuple[str, Self]:
        """The stream and the place that an id names; the stream's name may hold slashes.

        Raises:
            ValueError: it is no id.
        """
        found = _ID.fullmatch(message_id)
        if found is None:
            raise ValueError("not a position: <stream>/<epoch>/<offset>")
        return found[1], cls(found[2], int(found[3]))


def parse_cursor(text: str) -> dict[str, Position]:
    """Positions in several streams: ids joined by commas; empty for none.

    Raises:
        ValueError: one of them is no id, or two are of one stream.
    """
    found = [Position.parse(part) for part in text.split(",")] if text else []
    if len(dict(found)) < len(found):
        raise ValueError("two positions in one stream")
    return dict(found)


def format_cursor(positions: Mapping[str, Position]) -> str:
    """What `parse_cursor` reads."""
    return ",".join(position.id_in(stream) for stream, position in positions.items())

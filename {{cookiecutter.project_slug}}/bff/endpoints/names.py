"""Types that several endpoints share: ids, topics, counts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from bff.names import ConnectionId as ConnectionId
from bff.names import EventName, UserId


class _TextConvertor(Convertor[str]):
    """Any text, with slashes and line breaks, which the pattern of `path` does not match."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("text", _TextConvertor())

MAX_USERS = 1000
"""The most user ids in one call."""

UserIds = Annotated[list[UserId], Field(max_length=MAX_USERS)]
UserIdInPath = Annotated[UserId, Path()]
SessionIdInPath = Annotated[UserId, Path(description="The claim `sid`, or the id of a session")]
TokenIdInPath = Annotated[UserId, Path(description="The claim `jti`")]
Topic = EventName
"""The topic of an event. Browsers can subscribe to those without spaces and commas only."""


class Addressed(BaseModel):
    """The number of connections in the index. Some of them may have closed since."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"addressed": 3}]})

    addressed: int

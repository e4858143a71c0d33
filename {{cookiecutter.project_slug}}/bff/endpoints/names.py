"""Types that several endpoints share: ids, topics, counts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from bff.auth.caller import MAX_ID

MAX_USERS = 1000
"""The most user ids in one call."""

TEXT = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""No control characters."""

UserId = Annotated[str, Field(max_length=MAX_ID, pattern=TEXT)]
UserIds = Annotated[list[UserId], Field(max_length=MAX_USERS)]
UserIdInPath = Annotated[str, Path(max_length=MAX_ID, pattern=TEXT)]
ConnectionId = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")]
Topic = Annotated[str, Field(max_length=255, pattern=TEXT)]


class Addressed(BaseModel):
    """The number of connections in the index. Some of them may have closed since."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"addressed": 3}]})

    addressed: int

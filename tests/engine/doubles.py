"""Test doubles."""

from __future__ import annotations

import json
from typing import Any

from bff.auth.caller import Caller
from bff.connections.frames import Frame


class NothingRevoked:
    """No caller is revoked."""

    async def check(self, caller: Caller) -> None: ...


class RecordingTransport:
    """A transport that records its frames and its close."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.buffered = 0
        self.closed: tuple[int, str] | None = None

    def write(self, frame: Frame, limit: int) -> bool:
        if self.buffered and self.buffered + len(frame.payload) > limit:
            return False
        self.frames.append(frame)
        return True

    async def drained(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(frame.payload) for frame in self.frames]

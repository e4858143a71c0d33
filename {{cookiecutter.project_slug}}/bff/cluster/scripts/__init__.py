"""The Lua scripts that run in Redis."""

from __future__ import annotations

from pathlib import Path

from bff.redis.pipeline import AutoPipeline, Script

_FOLDER = Path(__file__).parent
_SHARED = "stream"
"""Functions that every script may call: they stand before it."""


def load(pipeline: AutoPipeline, name: str) -> Script:
    """The script `<name>.lua`, ready to be called."""
    parts = (_SHARED, name)
    return Script(
        pipeline, "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    )

"""The Lua scripts that run in Redis."""

from __future__ import annotations

from pathlib import Path

from bff.redis.pipeline import AutoPipeline, Script

_FOLDER = Path(__file__).parent
_PRELUDE = "stream"
"""Functions for all scripts; its text is put before theirs."""


def load(pipeline: AutoPipeline, name: str) -> Script:
    """The script `<name>.lua` as a callable."""
    parts = (_PRELUDE, name)
    return Script(
        pipeline, "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    )

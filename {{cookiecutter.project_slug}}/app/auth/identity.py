"""What the mesh is told about a caller."""

from __future__ import annotations

from typing import Any

from app.auth.caller import Caller
from app.settings import Settings


def mesh_context(caller: Caller, settings: Settings, session_id: str = "") -> dict[str, Any]:
    """The `context` of a mesh call: set here, never by a browser.

    Services of NuroPb look for the token under `Authorization`
    (`MESH_TOKEN_KEY`, `MESH_TOKEN_PREFIX`). The mesh is trusted with it.
    """
    return {
        "user_id": caller.user_id,
        "username": caller.username,
        "session_id": session_id,
        settings.mesh_token_key: settings.mesh_token_prefix + caller.token,
    }

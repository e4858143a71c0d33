"""A stand-in for the mesh service `archive`."""

from __future__ import annotations

from typing import Any

from bff import Context, Publish, Service


def archive_service(publish: Publish) -> Service:
    service = Service("archive", version="1.0")

    @service.method("restore")
    async def restore(context: Context, text: str) -> dict[str, Any]:
        note = {"user_id": context.get("user_id"), "text": text}
        await publish("archive.note.restored", note)
        return note

    return service

"""The clients of a run: raw sockets, event streams, and pages with `bff-client.js`."""

from __future__ import annotations

from tests.chaos.clients.base import Address, Client, Visitor
from tests.chaos.clients.event_stream import EventStreamClient
from tests.chaos.clients.pages import Page, Pages
from tests.chaos.clients.websocket import WebSocketClient

__all__ = [
    "Address",
    "Client",
    "EventStreamClient",
    "Page",
    "Pages",
    "Visitor",
    "WebSocketClient",
]

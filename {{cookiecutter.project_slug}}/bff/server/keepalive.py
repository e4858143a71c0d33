"""Pings and pongs of a WebSocket (RFC 6455, sections 5.5.2 and 5.5.3)."""

from __future__ import annotations

import asyncio
from typing import Final

from bff.connections.frames import header
from bff.server.flush_scheduler import FlushScheduler
from bff.server.parser import PING, PONG
from bff.server.write_buffer import WriteBuffer

_PING: Final = header(PING, 0)


class KeepAlive(WriteBuffer):
    """Pings the client `ping_interval` seconds after the start and after each pong, and answers its
    pings."""

    __slots__ = ("_awaits_pong", "_deferred_ping", "_ping_timer")

    def __init__(self, scheduler: FlushScheduler, transport: asyncio.Transport) -> None:
        super().__init__(scheduler, transport)
        self._awaits_pong = False
        self._ping_timer: asyncio.TimerHandle | None = None
        """Fires when the next ping is due, or when the pong is overdue."""
        self._deferred_ping: bytes | None = None
        """Payload of the client's latest ping, to be answered once the client reads again."""

    def pong_overdue(self) -> None:
        """No pong arrived within `ping_timeout` seconds."""
        raise NotImplementedError

    def start_pings(self) -> None:
        """Send the next ping after `ping_interval` seconds."""
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        loop, seconds = self._scheduler.loop, self._scheduler.ping_interval
        self._ping_timer = loop.call_later(seconds, self._send_ping) if seconds else None

    def stop_pings(self) -> None:
        """Cancel the next ping and stop waiting for a pong."""
        self._awaits_pong = False
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None

    def _send_ping(self) -> None:
        self._awaits_pong = True
        self.enqueue(_PING)
        if self._scheduler.ping_timeout:
            loop, seconds = self._scheduler.loop, self._scheduler.ping_timeout
            self._ping_timer = loop.call_later(seconds, self.pong_overdue)

    def pong_received(self) -> None:
        """Any pong answers the outstanding ping."""
        if self._awaits_pong:
            self._awaits_pong = False
            self.start_pings()

    def ping_received(self, payload: bytes) -> None:
        """Answer a ping, unless the client does not read: pongs would pile up, and only the latest
        ping needs an answer (section 5.5.3)."""
        if self._is_paused:
            self._deferred_ping = payload
        else:
            self._send_pong(payload)

    def _send_pong(self, payload: bytes) -> None:
        self.enqueue(header(PONG, len(payload)) + payload)

    def resume_writing(self) -> None:
        super().resume_writing()
        ping, self._deferred_ping = self._deferred_ping, None
        if ping is not None and not self.is_closing:
            self._send_pong(ping)

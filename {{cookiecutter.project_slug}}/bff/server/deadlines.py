"""Deadlines of HTTP connections: for a head, a body, an answer that is not read, a last request."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_SECONDS: Final = 30.0
"""How long a client may take to send a complete head, from the connect, or from the first byte of
a later head."""
_BODY_SECONDS: Final = 10.0
"""How often the progress of a request body is checked."""
_MIN_BODY_BYTES: Final = 10 * 1024
"""Bytes of a body that must arrive between two checks, unless it is complete."""
_ANSWER_SECONDS: Final = 30.0
"""How long a client may read nothing of an answer that waits for it."""


class DeadlineProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which disconnects a client that is too slow.

    The subclass says when a head and a body begin and end, and closes the connection after an
    answer if `_answers_once` is set. Time in which the server does not read is not the client's.
    """

    _head_seconds = 0.0
    """Overrides `_HEAD_SECONDS`, unless it is 0."""
    _head_timer: asyncio.TimerHandle | None = None
    _is_in_body = False
    _body_bytes = 0
    """Bytes of the body since its last check."""
    _body_timer: asyncio.TimerHandle | None = None
    _body_was_paused = False
    """Whether reading was paused at the last check of the body."""
    _answer_timer: asyncio.TimerHandle | None = None
    _answers_once = False
    """Whether the connection is closed after the answer to the next request."""
    _stop_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadlines()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """asyncio closes the transport, but an answer that is not read would keep it open."""
        self._watch_answer()

    def pause_writing(self) -> None:
        """More waits for the client than before: the time begins again."""
        super().pause_writing()
        self._stop_answer_timer()
        self._watch_answer()

    def resume_writing(self) -> None:
        """The client has read: the time begins again."""
        super().resume_writing()
        self._stop_answer_timer()
        self._watch_answer()

    def _stop_deadlines(self) -> None:
        self._is_in_body = False
        self._stop_head_timer()
        self._stop_body_timer()
        self._stop_answer_timer()
        if self._stop_timer is not None:
            self._stop_timer.cancel()

    def _wait_for_request(self) -> None:
        """Close an idle connection after the keep-alive time. uvicorn starts this timer after a
        response, and stops it when any input comes: also an empty line, or the rest of a body whose
        request was answered earlier. No response follows these, so the timer is started here."""
        had_request = self.cycle is not None and self._is_idle() and not self._is_in_body
        if had_request and self in self.connections and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # The server stops

    def shutdown(self) -> None:
        """The server stops (uvicorn calls this).

        A request may be on its way on an idle connection. So it is closed after one
        more answer, or after `last_request_seconds` without a request.
        """
        seconds = getattr(self.config, "last_request_seconds", 0.0)
        if seconds and self._is_idle():
            self._answers_once = True
            self._stop_timer = self.loop.call_later(seconds, self._close_if_idle)
        else:
            super().shutdown()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle():
            super().shutdown()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            seconds = self._head_seconds or _HEAD_SECONDS
            self._head_timer = self.loop.call_later(seconds, self._check_head)

    def _check_head(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            self._start_head_timer()
        elif not self.transport.is_closing():
            self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_body_timer(self) -> None:
        self._body_bytes = 0
        self._body_was_paused = self.flow.read_paused
        self._body_timer = self.loop.call_later(_BODY_SECONDS, self._check_body)

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _check_body(self) -> None:
        """Disconnect a client whose body is too slow, unless the application does not read it, or
        the client still waits for the answer 100."""
        self._body_timer = None
        if self.transport.is_closing():
            return
        is_slow = self._body_bytes < _MIN_BODY_BYTES
        is_paused = self.flow.read_paused or self._body_was_paused
        if is_slow and not is_paused and not self.cycle.waiting_for_100_continue:
            self.transport.abort()
        else:
            self._start_body_timer()

    def _watch_answer(self) -> None:
        """Disconnect the client if it reads nothing for `_ANSWER_SECONDS`."""
        waiting = self.transport.get_write_buffer_size()
        if waiting and self._answer_timer is None:
            self._answer_timer = self.loop.call_later(_ANSWER_SECONDS, self._check_answer, waiting)

    def _check_answer(self, waiting: int) -> None:
        self._answer_timer = None
        if self.transport.get_write_buffer_size() >= waiting:
            self.transport.abort()
        else:
            self._watch_answer()

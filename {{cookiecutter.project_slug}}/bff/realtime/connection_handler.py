"""Handles the frames of one connection: parses, limits, runs and answers them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from bff.auth.caller import Caller
from bff.auth.revocations import ENDED
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.json_reader import read_json
from bff.connections.messages import (
    FRAME_TYPES,
    AuthenticateFrame,
    Call,
    CancelFrame,
    CommandFrame,
    Drain,
    ErrorMessage,
    InboundFrame,
    PingFrame,
    Pong,
    PongFrame,
    RequestFrame,
    Response,
    Subscribe,
    SubscribeFrame,
    UnsubscribeFrame,
    parse,
    seconds_until,
)
from bff.connections.refused_frames import type_and_trace_id
from bff.errors import Code, Outcome, Problem
from bff.realtime.handler_context import HandlerContext
from bff.redis.client import UNAVAILABLE

logger = logging.getLogger(__name__)

_MAX_BAD_FRAMES = 10
"""This many invalid frames in a row close the connection."""
_MAX_RATE_LIMITED_FRAMES = 200
"""More rate-limited frames than this within `_RATE_LIMITED_SECONDS` close the connection."""
_RATE_LIMITED_SECONDS = 60.0
_PENDING_FRAME_BYTES = 64
"""What a frame that waits takes besides its text; so the number of empty ones is limited too."""
_RESPONSE_TYPES = frozenset(("request", "command", "subscribe", "unsubscribe", "authenticate"))
"""Frames that are answered with `response`. Others are answered with `error`."""

Work = Callable[[], Coroutine[Any, Any, Any]]
AnsweredFrame = RequestFrame | CommandFrame | SubscribeFrame | AuthenticateFrame
"""The frames whose `response` is sent by a task."""


class ConnectionHandler:
    """Answers every frame of one connection, and owns the tasks of its requests.

    The transport passes frames to `receive`. Requests run concurrently, up to
    `MAX_REQUESTS_PER_CONNECTION`.
    """

    def __init__(self, connection: Connection, caller: Caller, context: HandlerContext) -> None:
        self.connection = connection
        self.caller = caller
        self.drain_sent = False
        """Whether the client was sent `drain`: the connection will be closed with 4001."""
        self._context = context
        self._settings = context.settings
        self._allowance = context.allowances.hold(caller.user_id)
        self._bad_frames = 0
        self._rate_limited_frames = 0
        """Within `_RATE_LIMITED_SECONDS` from `_rate_limited_since`."""
        self._rate_limited_since = 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """The running requests, by trace id."""
        self._expiry = self._close_at_expiry()
        self.is_active = False
        """Whether a request has arrived since `SessionCheck` last reset the idle time of the
        session."""
        self._finishing = False
        self._pending_frames: list[str | bytes] | None = []
        """Frames that came before the connection was admitted; None after that."""
        self._pending_size = 0

    def receive(self, data: str | bytes) -> None:
        """Handle the payload of one WebSocket message. Never waits, never raises."""
        if self.connection.close_code is not None:
            return
        if isinstance(data, bytes):
            self.connection.close(CloseCode.UNSUPPORTED_DATA, "text frames only")
            return
        size = len(data) if data.isascii() else len(data.encode())
        if size > self._settings.max_frame_bytes:
            self.connection.close(CloseCode.MESSAGE_TOO_BIG)
            return
        if self._pending_frames is not None:
            self._pending_frames.append(data)
            self._pending_size += size + _PENDING_FRAME_BYTES
            if self._pending_size > self._settings.max_queue_bytes:
                self.connection.close(CloseCode.TOO_MANY_REQUESTS)
            return
        if seconds := self._allowance.take():
            self._rate_limited(data, seconds)
            return
        try:
            frame = parse(
                read_json(
                    data,
                    max_depth=self._settings.max_json_depth,
                    max_keys=self._settings.max_json_keys,
                )
            )
        except Problem as problem:
            self._reject(problem, data)
            return
        self._bad_frames = 0
        self._context.metrics.frames_in.labels(frame.type).inc()
        self._handle(frame)

    def start_receiving(self) -> None:
        """Handle the frames that waited for the admission, and each later one immediately."""
        pending, self._pending_frames = self._pending_frames or [], None
        for data in pending:
            self.receive(data)

    def stop(self) -> None:
        """Cancel the running requests of a closed connection. Call it once."""
        self._context.allowances.release(self.connection.user_id)
        self._expiry.cancel()
        for task in tuple(self._tasks.values()):
            task.cancel()

    def send_drain(self, reconnect_after_ms: int) -> None:
        """Ask the client to send no new requests here, and to reconnect after the close."""
        self.drain_sent = True
        text = Drain(reconnect_after_ms).encode()
        self.connection.send_frame(Frame(text, retry_ms=reconnect_after_ms))

    async def finish(self) -> None:
        """Reject new requests, wait for the running ones, then close with 4001."""
        self._finishing = True
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))
        self.connection.close(CloseCode.DRAIN, "drain")

    def _handle(self, frame: InboundFrame) -> None:
        match frame:
            case RequestFrame(payload=call):
                self._start(frame, lambda: self._request(call))
            case CommandFrame(payload=call):
                self._start(frame, lambda: self._command(call))
            case AuthenticateFrame(payload=authenticate):
                self._start(frame, lambda: self._authenticate(authenticate.token))
            case CancelFrame(payload=cancel):
                task = self._tasks.get(cancel.trace_id)
                if task is None:
                    problem = Problem(Code.NOT_FOUND, "No request with this trace_id is running")
                    self._send_error(cancel.trace_id, problem)
                else:
                    task.cancel()
            case SubscribeFrame(payload=subscribe):
                self._start(frame, lambda: self._subscribe(subscribe))
            case UnsubscribeFrame(payload=unsubscribe):
                self._context.subscriptions.unsubscribe(self.connection, unsubscribe.topics)
                self.connection.send(Response(unsubscribe.trace_id, {}))
            case PingFrame(payload=ping):
                self.connection.send(Pong(ping.trace_id))
            case PongFrame():
                pass

    # Requests

    def _start(self, frame: AnsweredFrame, work: Work) -> None:
        self.is_active = True
        trace_id = frame.payload.trace_id or uuid.uuid4().hex
        if trace_id in self._tasks:
            problem = Problem(Code.CONFLICT, "A request with this trace_id is running")
        elif len(self._tasks) >= self._settings.max_requests_per_connection:
            problem = Problem(Code.TOO_MANY_IN_FLIGHT)
        elif self._finishing:
            problem = Problem(Code.SERVICE_UNAVAILABLE, "This instance is shutting down: reconnect")
        else:
            task = asyncio.create_task(self._answer(frame, trace_id, work))
            self._tasks[trace_id] = task
            task.add_done_callback(lambda _: self._done(trace_id, task))
            return
        self._send_problem(trace_id, problem)

    async def _answer(self, frame: AnsweredFrame, trace_id: str, work: Work) -> None:
        try:
            result = await work()
            self._send_result(frame, trace_id, result)
        except Problem as problem:
            self._send_problem(trace_id, problem)
        except Exception:
            logger.exception(
                "request failed: unexpected exception", extra=self._log_fields(frame, trace_id)
            )
            self._send_problem(trace_id, Problem(Code.INTERNAL, outcome=Outcome.UNKNOWN))

    def _done(self, trace_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[trace_id]
        if task.cancelled():
            self._send_problem(trace_id, Problem(Code.CANCELLED, outcome=Outcome.UNKNOWN))

    async def _request(self, call: Call) -> Any:
        return await self._context.dispatcher.call(self.caller, call, self.connection)

    async def _command(self, call: Call) -> Any:
        await self._context.dispatcher.call(self.caller, call, self.connection, command=True)
        return {"accepted": True}

    async def _subscribe(self, request: Subscribe) -> Any:
        dispatcher, subscriptions = self._context.dispatcher, self._context.subscriptions
        topics = {one.topic: one.position for one in request.topics}
        with subscriptions.cancelled_by_unsubscribe(self.connection, topics.keys()):
            await dispatcher.check_topics(self.caller, topics)
        if dispatcher.topics_without_scope(self.caller, topics):
            raise Problem(Code.FORBIDDEN, "The new token lacks a scope of these topics")
        self._context.topic_limit.take(self.caller.user_id, topics)
        joined = await subscriptions.subscribe(self.connection, topics)
        return {"positions": joined.positions(), "recovered": joined.recovered()}

    async def _authenticate(self, token: str) -> Any:
        if self.caller.session is not None:
            raise Problem(
                Code.FORBIDDEN, "This connection belongs to a session: it accepts no token"
            )
        caller = await self._context.verify(token)
        if caller.user_id != self.caller.user_id:
            raise Problem(Code.FORBIDDEN, "The token belongs to another user")
        self.caller = caller
        self._expiry.cancel()
        self._expiry = self._close_at_expiry()
        if lost := self._context.dispatcher.topics_without_scope(caller, self.connection.topics):
            self._context.subscriptions.revoke(self.connection, lost)
        if self.connection.details["session_id"] != caller.session_id:
            self.connection.details["session_id"] = caller.session_id
            # Without Redis the index entry has the old session until it is written again.
            with suppress(*UNAVAILABLE):
                await self._context.subscriptions.update_entry(self.connection)
        return {"expires_at": caller.expires_at, "expires_in": seconds_until(caller.expires_at)}

    def _close_at_expiry(self) -> asyncio.TimerHandle:
        delay = self.caller.expires_at - time.time()
        code, reason = CloseCode.SESSION_ENDED, ENDED
        if self.caller.session is None:
            delay += self._settings.token_grace_seconds
            code, reason = CloseCode.TOKEN_EXPIRED, "token expired"
        return asyncio.get_running_loop().call_later(
            max(0.0, delay), self.connection.close, code, reason
        )

    # Responses

    def _send_problem(self, trace_id: str | None, problem: Problem) -> None:
        self._context.metrics.frames_refused.labels(problem.code).inc()
        self.connection.send(Response(trace_id, error=problem.as_error()))

    def _send_error(self, trace_id: str | None, problem: Problem) -> None:
        self._context.metrics.frames_refused.labels(problem.code).inc()
        self.connection.send(ErrorMessage(problem, trace_id))

    def _send_result(self, frame: AnsweredFrame, trace_id: str, result: Any) -> None:
        try:
            payload = Response(trace_id, result).encode()
        except TypeError as error:
            logger.exception("result is not JSON", extra=self._log_fields(frame, trace_id))
            raise Problem(Code.SERVICE_ERROR, outcome=Outcome.DONE) from error
        if len(payload) > self._settings.max_queue_bytes:
            raise Problem(Code.SERVICE_ERROR, "The result is too large", outcome=Outcome.DONE)
        self.connection.send_frame(Frame(payload))

    def _log_fields(self, frame: AnsweredFrame, trace_id: str) -> dict[str, str]:
        call = frame.payload
        handler = f"{call.service}.{call.method}" if isinstance(call, Call) else frame.type
        return {"connection": self.connection.id, "trace_id": trace_id, "handler": handler}

    def _rate_limited(self, data: str, seconds: float) -> None:
        """Answer a frame beyond the user's rate limit; close if the client sends many of them.

        A frame that is answered is decoded, because the answer needs its trace id. A frame after
        which the connection is closed is not.
        """
        now = time.monotonic()
        if now - self._rate_limited_since > _RATE_LIMITED_SECONDS:
            self._rate_limited_frames, self._rate_limited_since = 0, now
        self._rate_limited_frames += 1
        if self._rate_limited_frames > _MAX_RATE_LIMITED_FRAMES:
            extra = {"connection": self.connection.id, "user": self.connection.user_id}
            logger.warning("connection closed: the client sends too many frames", extra=extra)
            self.connection.close(CloseCode.TOO_MANY_REQUESTS)
            return
        self._reject(Problem(Code.RATE_LIMITED, retry_after_seconds=seconds), data)

    def _reject(self, problem: Problem, text: str) -> None:
        """Answer a frame that is invalid or rate-limited, with its trace id if it has one.

        Only what is not a frame of this protocol counts as a bad frame. Frames with invalid content
        come from correct clients too, for example with an unpaired surrogate (half an
        emoji) in a text.
        """
        kind, trace_id = type_and_trace_id(text)
        if kind in _RESPONSE_TYPES:
            self._send_problem(trace_id, problem)
            return
        self._send_error(trace_id, problem)
        if problem.code is Code.INVALID_PARAMS and kind not in FRAME_TYPES:
            self._bad_frames += 1
            if self._bad_frames >= _MAX_BAD_FRAMES:
                self.connection.close(CloseCode.BAD_FRAME, "too many bad frames")

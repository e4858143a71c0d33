"""What one socket says and what it is answered."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bff.auth.caller import Caller
from bff.cluster.subscriptions import Subscriptions, positions, recovered
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.frames import Frame, check_depth, decode
from bff.connections.messages import (
    AuthenticateFrame,
    Call,
    CancelFrame,
    CommandFrame,
    Drain,
    ErrorMessage,
    InboundFrame,
    Message,
    PingFrame,
    Pong,
    PongFrame,
    RequestFrame,
    Response,
    Subscribe,
    SubscribeFrame,
    UnsubscribeFrame,
    parse,
)
from bff.errors import Code, Outcome, Problem
from bff.realtime.dispatcher import Dispatcher
from bff.realtime.limits import TokenBucket
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_BAD_FRAMES = 10
"""So many frames in a row that are no frames at all end the socket."""
_REFUSED_FRAMES = 200
"""So many frames in a row beyond the rate limit end the socket."""

Verify = Callable[[str], Awaitable[Caller]]
_RESPONSE_TYPES = frozenset(("request", "command", "subscribe", "unsubscribe", "authenticate"))


class ConnectionHandler:
    """Is fed with frames by whoever reads the socket, and owns the tasks of its requests.

    Requests run side by side, a bounded number of them. Nothing that a client sends goes
    unanswered.
    """

    def __init__(
        self,
        connection: Connection,
        caller: Caller,
        dispatcher: Dispatcher,
        subscriptions: Subscriptions,
        verify: Verify,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.connection = connection
        self.caller = caller
        self._dispatcher = dispatcher
        self._subscriptions = subscriptions
        self._verify = verify
        self._settings = settings
        self._metrics = metrics
        self._bucket = TokenBucket(settings.max_messages_per_minute, settings.max_message_burst)
        self._bad = 0
        self._refused = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._expiry = self._expire_later()
        self.warned = False
        """Whether the client was told that this socket will be closed with 4001."""
        self._finishing = False
        self._pending_frames: list[str | bytes] | None = []
        """What has come while it is not known whether the socket is let in; then None."""
        self._pending_size = 0

    def receive(self, data: str | bytes) -> None:
        """Take one frame as it came from the socket. Never waits, never raises."""
        if isinstance(data, bytes):
            self.connection.close(CloseCode.UNSUPPORTED_DATA, "text frames only")
            return
        if len(data) > self._settings.max_frame_bytes:
            self.connection.close(CloseCode.MESSAGE_TOO_BIG)
            return
        if self._pending_frames is not None:
            self._pending_frames.append(data)
            self._pending_size += len(data)
            if self._pending_size > self._settings.max_queue_bytes:
                self.connection.close(CloseCode.TOO_MANY_REQUESTS)
            return
        value: Any = None
        try:
            try:
                value = decode(data)
            finally:
                self._check_rate()
            check_depth(value, self._settings.max_json_depth)
            frame = parse(value)
        except Problem as problem:
            self._refuse(problem, value)
            return
        self._bad = 0
        self._metrics.frames_in.labels(frame.type).inc()
        self._handle(frame)

    def start_receiving(self) -> None:
        """The socket is let in: do what has come meanwhile, and what comes."""
        pending, self._pending_frames = self._pending_frames or [], None
        for data in pending:
            if self.connection.closing is None:
                self.receive(data)

    def closed(self) -> None:
        """The socket is gone: end what still runs for it."""
        self._expiry.cancel()
        for task in tuple(self._tasks.values()):
            task.cancel()

    def warn(self, reconnect_after_ms: int) -> None:
        """Tell the client to send nothing new here, and how long to wait after the close."""
        self.warned = True
        text = Drain(reconnect_after_ms).encode()
        self.connection.send_frame(Frame(text, retry_ms=reconnect_after_ms))

    async def finish(self) -> None:
        """Close with 4001 as soon as the requests that run are answered; take no others."""
        self._finishing = True
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))
        self.connection.close(CloseCode.DRAIN, "drain")

    def _handle(self, frame: InboundFrame) -> None:
        match frame:
            case RequestFrame(payload=call):
                self._start(call.trace_id, lambda: self._request(call))
            case CommandFrame(payload=call):
                self._start(call.trace_id, lambda: self._command(call))
            case AuthenticateFrame(payload=authenticate):
                self._start(authenticate.trace_id, lambda: self._authenticate(authenticate.token))
            case CancelFrame(payload=cancel):
                task = self._tasks.get(cancel.trace_id)
                if task is None:
                    problem = Problem(Code.NOT_FOUND, "No such request in flight")
                    self._send(ErrorMessage(problem, cancel.trace_id))
                else:
                    task.cancel()
            case SubscribeFrame(payload=request):
                self._start(request.trace_id, lambda: self._subscribe(request))
            case UnsubscribeFrame(payload=names):
                self._subscriptions.unsubscribe(self.connection, names.topics)
                self._send(Response(names.trace_id, {}))
            case PingFrame(payload=beat):
                self._send(Pong(beat.trace_id))
            case PongFrame():
                pass

    # Requests

    def _start(self, trace_id: str | None, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        trace_id = trace_id or uuid.uuid4().hex
        if trace_id in self._tasks:
            problem = Problem(Code.CONFLICT, "A request with this trace_id is in flight")
        elif len(self._tasks) >= self._settings.max_requests_per_connection:
            problem = Problem(Code.TOO_MANY_IN_FLIGHT)
        elif self._finishing:
            problem = Problem(Code.SERVICE_UNAVAILABLE, "This instance is going away")
        else:
            task = asyncio.create_task(self._answer(trace_id, work))
            self._tasks[trace_id] = task
            task.add_done_callback(lambda _: self._done(trace_id, task))
            return
        self._send(Response(trace_id, error=problem.as_error()))

    async def _answer(self, trace_id: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            result = await work()
            self._send_result(trace_id, result)
            return
        except Problem as problem:
            self._send_problem(trace_id, problem)
        except Exception:
            logger.exception("request %r of %s failed", trace_id, self.connection.id)
            self._send_problem(trace_id, Problem(Code.INTERNAL, outcome=Outcome.UNKNOWN))

    def _done(self, trace_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[trace_id]
        if task.cancelled():
            self._send_problem(trace_id, Problem(Code.CANCELLED, outcome=Outcome.UNKNOWN))

    async def _request(self, call: Call) -> Any:
        return await self._dispatcher.request(self.caller, call, self.connection)

    async def _command(self, call: Call) -> Any:
        await self._dispatcher.command(self.caller, call, self.connection)
        return {"accepted": True}

    async def _subscribe(self, request: Subscribe) -> Any:
        topics = {one.topic: one.position for one in request.topics}
        with self._subscriptions.authorising(self.connection, topics) as still_pending:
            await self._dispatcher.check_topics(self.caller, topics)
        if self._dispatcher.out_of_scope(self.caller, topics):
            raise Problem(Code.FORBIDDEN, "The new token allows less")
        if len(still_pending) < len(topics):
            raise Problem(Code.CANCELLED, "Unsubscribed meanwhile", outcome=Outcome.NOT_SENT)
        joined = await self._subscriptions.subscribe(self.connection, topics)
        return {"positions": positions(joined), "recovered": recovered(joined)}

    async def _authenticate(self, token: str) -> Any:
        caller = await self._verify(token)
        if caller.user_id != self.caller.user_id:
            raise Problem(Code.FORBIDDEN, "The token is another user's")
        self.caller = caller
        self._expiry.cancel()
        self._expiry = self._expire_later()
        if lost := self._dispatcher.out_of_scope(caller, self.connection.topics):
            self._subscriptions.take_back(self.connection, lost)
        return {"expires_at": caller.expires_at}

    def _expire_later(self) -> asyncio.TimerHandle:
        left = self.caller.expires_at + self._settings.token_grace_seconds - time.time()
        return asyncio.get_running_loop().call_later(
            max(0.0, left), self.connection.close, CloseCode.TOKEN_EXPIRED, "token expired"
        )

    # Answers

    def _send(self, message: Message) -> None:
        self.connection.send(message)

    def _send_problem(self, trace_id: str | None, problem: Problem) -> None:
        self._metrics.frames_refused.labels(problem.code).inc()
        self._send(Response(trace_id, error=problem.as_error()))

    def _send_result(self, trace_id: str, result: Any) -> None:
        try:
            payload = Response(trace_id, result).encode()
        except TypeError as error:
            logger.exception("the result of request %r is no JSON", trace_id)
            raise Problem(Code.SERVICE_ERROR, outcome=Outcome.DONE) from error
        if len(payload) > self._settings.max_queue_bytes:
            raise Problem(Code.SERVICE_ERROR, "The answer is too large", outcome=Outcome.DONE)
        self.connection.send_frame(Frame(payload))

    def _check_rate(self) -> None:
        if self._bucket.take():
            self._refused = 0
            return
        self._refused += 1
        if self._refused > _REFUSED_FRAMES:
            self.connection.close(CloseCode.TOO_MANY_REQUESTS)
        raise Problem(Code.RATE_LIMITED)

    def _refuse(self, problem: Problem, value: Any) -> None:
        """Answer a frame that cannot be taken, as closely to its sender's question as it can be
        made out."""
        kind, trace_id = _what(value)
        if kind in _RESPONSE_TYPES:
            self._send_problem(trace_id, problem)
            return
        self._metrics.frames_refused.labels(problem.code).inc()
        self._send(ErrorMessage(problem, trace_id))
        if problem.code is Code.INVALID_PARAMS:
            self._bad += 1
            if self._bad >= _BAD_FRAMES:
                self.connection.close(CloseCode.BAD_FRAME, "too many bad frames")


def _what(value: Any) -> tuple[str | None, str | None]:
    """Type and trace id of a frame that may be malformed."""
    if not isinstance(value, dict):
        return None, None
    kind, payload = value.get("type"), value.get("payload")
    trace_id = payload.get("trace_id") if isinstance(payload, dict) else None
    return (
        kind if isinstance(kind, str) else None,
        trace_id if isinstance(trace_id, str) and len(trace_id) <= 128 else None,
    )

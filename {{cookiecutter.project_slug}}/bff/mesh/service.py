"""A service of the mesh, written in Python. It speaks NuroPb."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call

from bff.errors import Code, Outcome, Problem, describe
from bff.mesh import nuropb
from bff.mesh.describe import METHOD as DESCRIBE
from bff.mesh.describe import parameters_of
from bff.mesh.encryption import EncryptionError, PrivateKey, is_encrypted
from bff.mesh.messages import Context, Delivery, Kind, MalformedMessage, MeshRequest, Message

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])
logger = logging.getLogger(__name__)


Answer = Callable[[MeshRequest], Awaitable[Any]]
"""Carries out a request or command and returns its result."""


class Publish(Protocol):
    """A function that publishes an event, such as `MeshClient.publish`."""

    def __call__(self, topic: str, event: Any, /) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class _Method:
    answer: Answer
    encrypted: bool
    description: str
    parameters: dict[str, Any]


class Service:
    """A service name and its methods. `MeshClient.serve` runs it.

    Instances with the same name share the calls. A call whose instance crashes is delivered again,
    with the same correlation id: a method that must not act twice checks it.
    """

    def __init__(self, name: str, *, version: str = "", private_key: str = "") -> None:
        """`private_key` is an RSA key in PEM. Methods with `encrypted=True` need one.

        Raises:
            EncryptionError: `private_key` is not an RSA private key, or it has a password.
        """
        self.name = name
        self.time_limit_seconds: float = 30
        """After it a method is cancelled. `MeshClient` sets it: `MAX_REQUEST_TIMEOUT_SECONDS`."""
        self._version = version
        self._key = PrivateKey(private_key) if private_key else None
        self._methods: dict[str, _Method] = {}

    def method(self, name: str, *, encrypted: bool = False) -> Callable[[Function], Function]:
        """Decorate an async function that carries out calls of `name`.

        Pydantic validates the parameters against the annotations. A parameter named `context`
        receives the context of the call. A `Problem` that the function raises reaches the caller;
        any other error is logged, and the caller gets "Internal error". With `encrypted` only
        encrypted calls are accepted.
        """

        def declare(function: Function) -> Function:
            self.add(name, _by_keyword(function), described_by=function, encrypted=encrypted)
            return function

        return declare

    def add(
        self,
        name: str,
        answer: Answer,
        *,
        described_by: Callable[..., Any] | None = None,
        encrypted: bool = False,
    ) -> None:
        """Add a method that receives the whole request.

        The docstring and the parameters of `described_by` become the method's description.

        Raises:
            ValueError: the name is taken or reserved, or `encrypted` is set without a private key.
        """
        if name in self._methods or name.startswith(("_", "nuropb_")):
            raise ValueError(f"service {self.name}: {name!r} is taken or reserved")
        if encrypted and self._key is None:
            raise ValueError(f"service {self.name}: {name!r} needs a private_key")
        self._methods[name] = _Method(
            answer,
            encrypted,
            inspect.getdoc(described_by) or "",
            parameters_of(described_by) if described_by else {"type": "object", "properties": []},
        )

    async def answer(self, delivery: Delivery) -> Message | None:
        """Carry out a call. Returns the reply to a request, None for a command.

        Raises:
            MalformedMessage: the message is not a call, or cannot be decrypted. Nothing was done.
        """
        body, key = delivery.body, None
        if is_encrypted(body):
            body, key = self._decrypt(body)
        request = nuropb.decode_request(body, delivery)
        wants_reply = delivery.kind == Kind.REQUEST
        if wants_reply and not delivery.reply_to:
            raise MalformedMessage("a request without reply_to")
        try:
            async with asyncio.timeout(self.time_limit_seconds) as limit:
                result, error = await self._result(request, encrypted=key is not None), None
        except Problem as problem:
            result, error = None, problem.as_error()
        except Exception as failure:
            timed_out = isinstance(failure, TimeoutError) and limit.expired()
            words = "service method timed out" if timed_out else "service method failed"
            facts = {"service": self.name, "method": request.method, "trace_id": request.trace_id}
            logger.exception(words, extra=facts)
            result, error = None, {"error": "NuropbException", "description": "Internal error"}
            if timed_out:
                error = Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN).as_error()
        delivery.on_settled.extend(request.on_settled)
        if not wants_reply:
            return None
        return self._reply(delivery, result, error, key)

    def _decrypt(self, body: bytes) -> tuple[bytes, bytes]:
        if self._key is None:
            raise MalformedMessage("not JSON, and the service has no private key to decrypt it")
        try:
            return self._key.decrypt(body)
        except EncryptionError as error:
            raise MalformedMessage(f"neither JSON nor encrypted for this key: {error}") from None

    async def _result(self, request: MeshRequest, *, encrypted: bool) -> Any:
        if request.method == DESCRIBE:
            return self._description()
        method = self._methods.get(request.method)
        if method is None:
            raise Problem(Code.NOT_FOUND, f"Unknown method {request.method[:128]}")
        if method.encrypted and not encrypted:
            raise Problem(Code.INVALID_PARAMS, f"{request.method} must be called encrypted")
        result = await method.answer(request)
        return result.model_dump(mode="json") if isinstance(result, BaseModel) else result

    def _reply(
        self, delivery: Delivery, result: Any, error: dict[str, Any] | None, key: bytes | None
    ) -> Message:
        try:
            reply = nuropb.response(delivery, result, error)
        except TypeError:
            logger.exception("result of a service method is not JSON", extra={"service": self.name})
            error = {"error": "NuropbException", "description": "The result is not JSON"}
            reply = nuropb.response(delivery, None, error)
        if key is not None and self._key is not None:
            reply.encrypt(self._key, key)
        return reply

    def _description(self) -> dict[str, Any]:
        encrypted = any(method.encrypted for method in self._methods.values())
        return {
            "service_name": self.name,
            "service_version": self._version,
            "description": "",
            "encrypted_methods": encrypted,
            "public_key": self._key.public_pem if self._key else None,
            "warnings": [],
            "methods": {
                name: {
                    "description": method.description,
                    "requires_encryption": method.encrypted,
                    "parameters": method.parameters,
                }
                for name, method in self._methods.items()
            },
        }


def _by_keyword(function: Callable[..., Awaitable[Any]]) -> Answer:
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__} must be an `async def` function")
    has_context = "context" in inspect.signature(function).parameters

    @validate_call(config=ConfigDict(arbitrary_types_allowed=True))
    @wraps(function)
    def begin(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Not a coroutine function: so parameters are validated before the function runs, and its
        own validation errors are not taken for errors of the caller."""
        return function(*args, **kwargs)

    async def answer(request: MeshRequest) -> Any:
        params = request.params
        try:
            running = begin(**({**params, "context": request.context} if has_context else params))
        except ValidationError as invalid:
            raise Problem(Code.INVALID_PARAMS, describe(invalid)) from None
        return await running

    return answer


__all__ = ["Answer", "Context", "MeshRequest", "Service"]

"""A service of the mesh in Python: methods in, one NuroPb reply out for each request."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call

from bff.errors import Code, Problem, describe
from bff.mesh import nuropb
from bff.mesh.describe import METHOD as DESCRIBE
from bff.mesh.describe import parameters_of
from bff.mesh.encryption import PrivateKey, Unreadable, is_sealed
from bff.mesh.messages import Context, Delivery, Kind, MalformedMessage, MeshRequest, Message

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])
logger = logging.getLogger(__name__)


Answer = Callable[[MeshRequest], Awaitable[Any]]


class Publish(Protocol):
    """`MeshClient.publish`, or another function that publishes an event."""

    def __call__(self, topic: str, event: Any, /) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class _Method:
    answer: Answer
    encrypted: bool
    description: str
    parameters: dict[str, Any]


class Service:
    """A name on the mesh and its methods; `MeshClient.serve` has it take part.

    Instances under one name share the work. A call whose instance dies at work is delivered
    again: a method that must not act twice looks at the correlation id.
    """

    def __init__(self, name: str, *, version: str = "", private_key: str = "") -> None:
        """`private_key` is an RSA key in PEM, for methods that are to be called encrypted.

        Raises:
            Unreadable: it is none.
        """
        self.name = name
        self._version = version
        self._key = PrivateKey(private_key) if private_key else None
        self._methods: dict[str, _Method] = {}

    def method(self, name: str, *, encrypted: bool = False) -> Callable[[Function], Function]:
        """Answer calls of `name` with an async function.

        Parameters are checked against its annotations, by Pydantic. One that is called `context`
        is given who calls. It may raise `Problem`; of any other error the caller learns nothing.
        With `encrypted` only encrypted calls are answered.
        """

        def declare(function: Function) -> Function:
            self.add(name, _by_keyword(function), function, encrypted=encrypted)
            return function

        return declare

    def add(
        self,
        name: str,
        answer: Answer,
        function: Callable[..., Any] | None = None,
        *,
        encrypted: bool = False,
    ) -> None:
        """Answer calls of `name` with whatever takes a request; `function` describes it.

        Raises:
            ValueError: the name is taken or private, or there is no key for encrypted calls.
        """
        if name in self._methods or name.startswith(("_", "nuropb_")):
            raise ValueError(f"service {self.name}: {name!r} is taken or reserved")
        if encrypted and self._key is None:
            raise ValueError(f"service {self.name}: {name!r} needs a private_key")
        self._methods[name] = _Method(
            answer,
            encrypted,
            inspect.getdoc(function) or "",
            parameters_of(function) if function else {"type": "object", "properties": []},
        )

    async def answer(self, delivery: Delivery) -> Message | None:
        """Carry out a call; the reply to a request, None for a command.

        Raises:
            MalformedMessage: it is neither, or not for us to read. Nothing was begun.
        """
        body, key = delivery.body, None
        if is_sealed(body):
            body, key = self._open(body)
        request = nuropb.decode_request(body, delivery)
        wants_reply = delivery.kind == Kind.REQUEST
        if wants_reply and not delivery.reply_to:
            raise MalformedMessage("a request without reply_to")
        try:
            result, error = await self._result(request, sealed=key is not None), None
        except Problem as problem:
            result, error = None, problem.as_error()
        except ValidationError as invalid:
            result, error = None, Problem(Code.INVALID_PARAMS, describe(invalid)).as_error()
        except Exception:
            logger.exception("%s.%s (trace %s)", self.name, request.method, request.trace_id)
            result, error = None, {"error": "NuropbException", "description": "Internal error"}
        if not wants_reply:
            return None
        return self._reply(delivery, result, error, key)

    def _open(self, body: bytes) -> tuple[bytes, bytes]:
        if self._key is None:
            raise MalformedMessage("not JSON, and there is no key to open it with")
        try:
            return self._key.open(body)
        except Unreadable as error:
            raise MalformedMessage(f"not JSON, nor sealed for us: {error}") from None

    async def _result(self, request: MeshRequest, *, sealed: bool) -> Any:
        if request.method == DESCRIBE:
            return self._description()
        method = self._methods.get(request.method)
        if method is None:
            raise Problem(Code.NOT_FOUND, f"Unknown method {request.method[:128]}")
        if method.encrypted and not sealed:
            raise Problem(Code.INVALID_PARAMS, f"{request.method} must be called encrypted")
        result = await method.answer(request)
        return result.model_dump(mode="json") if isinstance(result, BaseModel) else result

    def _reply(
        self, delivery: Delivery, result: Any, error: dict[str, Any] | None, key: bytes | None
    ) -> Message:
        try:
            reply = nuropb.response(delivery, result, error)
        except TypeError:
            logger.exception("service %s: a result is no JSON", self.name)
            error = {"error": "NuropbException", "description": "The result is no JSON"}
            reply = nuropb.response(delivery, None, error)
        if key is not None and self._key is not None:
            reply.seal(self._key, key)
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
    call = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
    if "context" not in inspect.signature(function).parameters:
        return lambda request: call(**request.params)
    return lambda request: call(**{**request.params, "context": request.context})


__all__ = ["Answer", "Context", "MeshRequest", "Service"]

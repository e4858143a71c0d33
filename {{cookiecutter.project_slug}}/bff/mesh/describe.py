"""Descriptions of services: the result of NuroPb's reserved method `nuropb_describe`."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bff.errors import Problem
from bff.mesh.encryption import EncryptionError, PublicKey

METHOD = "nuropb_describe"
KEY_SECONDS = 2.0
"""For how long a public key is taken to be the service's, after its description or a reply to an
encrypted call. A NuroPb service that receives a call for another key leaves the mesh."""


@dataclass(frozen=True, slots=True)
class MethodDescription:
    """One method of a service."""

    description: str = ""
    encrypted: bool = False
    """Whether the service wants calls of this method to be encrypted."""
    required: tuple[str, ...] = ()
    """Names of the parameters without a default."""


@dataclass(frozen=True, slots=True)
class ServiceDescription:
    """A service as it describes itself. What the description lacks is empty here."""

    name: str
    version: str = ""
    description: str = ""
    methods: Mapping[str, MethodDescription] = field(default_factory=dict)
    public_key: PublicKey | None = None


def parse(name: str, answer: Any) -> ServiceDescription:
    """Parse a description. Missing and malformed parts are ignored."""
    answer = answer if isinstance(answer, dict) else {}
    methods = answer.get("methods")
    return ServiceDescription(
        name=name,
        version=str(answer.get("service_version") or ""),
        description=str(answer.get("description") or ""),
        methods={
            str(method): _parse_method(facts)
            for method, facts in (methods.items() if isinstance(methods, dict) else ())
            if isinstance(facts, dict)
        },
        public_key=_parse_key(answer.get("public_key")),
    )


def _parse_method(facts: dict[str, Any]) -> MethodDescription:
    parameters = facts.get("parameters")
    required = parameters.get("required") if isinstance(parameters, dict) else None
    return MethodDescription(
        description=str(facts.get("description") or ""),
        encrypted=facts.get("requires_encryption") is True,
        required=tuple(map(str, required)) if isinstance(required, list) else (),
    )


def _parse_key(pem: Any) -> PublicKey | None:
    try:
        return PublicKey(pem) if isinstance(pem, str) else None
    except EncryptionError:
        return None


class DescriptionCache:
    """Caches the descriptions of other services, each for `max_age` seconds."""

    def __init__(self, request: Callable[[str], Awaitable[Any]], max_age: float) -> None:
        self._request = request
        self._max_age = max_age
        self._known: dict[str, tuple[float, ServiceDescription]] = {}
        """By service: when its description was requested, and the description."""
        self._key_proven: dict[str, float] = {}
        """By service: when the last call was sent that it has decrypted."""
        self._failed: dict[str, tuple[float, Problem]] = {}
        """By service: when the last request failed, and why."""
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, service: str) -> ServiceDescription:
        """A service's description. Concurrent calls share one request, and its failure.

        Raises:
            Problem: the service did not answer.
        """
        return await self._get(service, time.monotonic() - self._max_age)

    async def key(self, service: str) -> PublicKey | None:
        """A service's public key, as it was at most `KEY_SECONDS` ago.

        Raises:
            Problem: the service did not answer.
        """
        since = time.monotonic() - KEY_SECONDS
        if self._key_proven.get(service, 0.0) > since:
            since = 0.0
        return (await self._get(service, since)).public_key

    def prove_key(self, service: str, sent_at: float) -> None:
        """Note that the service has decrypted a call that was sent at this time."""
        self._key_proven[service] = sent_at

    async def _get(self, service: str, since: float) -> ServiceDescription:
        if (known := self._requested_after(service, since)) is not None:
            return known
        began = time.monotonic()
        async with self._locks.setdefault(service, asyncio.Lock()):
            if (known := self._requested_after(service, since)) is not None:
                return known
            failed_at, problem = self._failed.get(service, (0.0, None))
            if problem is not None and failed_at > began:
                raise _copy(problem)
            now = time.monotonic()
            try:
                known = parse(service, await self._request(service))
            except Problem as problem:
                self._failed[service] = (time.monotonic(), _copy(problem))
                raise
            self._known[service] = (now, known)
            self._failed.pop(service, None)
            return known

    def forget(self, service: str) -> None:
        """Request the description again next time: the service may have a new key."""
        self._known.pop(service, None)
        self._key_proven.pop(service, None)

    def _requested_after(self, service: str, since: float) -> ServiceDescription | None:
        requested, known = self._known.get(service, (0.0, None))
        return known if requested > since else None


def _copy(problem: Problem) -> Problem:
    """Without the traceback, and what its frames hold."""
    return Problem(problem.code, problem.description, outcome=problem.outcome)


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's parameters as NuroPb describes them: `properties` is an array of pairs."""
    properties, required = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "context":
            continue
        hint = parameter.annotation
        kind = hint if isinstance(hint, str) else getattr(hint, "__name__", "")
        default = parameter.default
        if default is inspect.Parameter.empty:
            required.append(name)
            default = ""
        properties.append([name, {"type": kind, "description": "", "default": str(default)}])
    return {"type": "object", "properties": properties, "required": required}

"""The one list of error codes, the same over HTTP and over sockets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError


class Outcome(StrEnum):
    """What became of the work that was asked for."""

    NOT_SENT = "not_sent"
    """It was never begun."""
    DONE = "done"
    """It was begun and has ended, with this error."""
    UNKNOWN = "unknown"
    """It may or may not have been done, or may still be running."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    status: int
    error: str
    description: str
    transient: bool = False
    """Repeating later can succeed."""


class Code(StrEnum):
    """Every error code a client can meet."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    DEPRECATED = "deprecated"
    INVALID_PARAMS = "invalid_params"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_IN_FLIGHT = "too_many_in_flight"
    CANCELLED = "cancelled"
    SERVICE_ERROR = "service_error"
    SERVICE_UNAVAILABLE = "service_unavailable"
    MESH_UNAVAILABLE = "mesh_unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return _MEANINGS[self].status


_MEANINGS = {
    Code.UNAUTHENTICATED: _Meaning(401, "NuropbAuthenticationError", "Sign in first"),
    Code.FORBIDDEN: _Meaning(403, "NuropbAuthorizationError", "Not allowed"),
    Code.NOT_FOUND: _Meaning(404, "NuropbHandlingError", "No such thing"),
    Code.CONFLICT: _Meaning(409, "NuropbHandlingError", "Already in progress"),
    Code.DEPRECATED: _Meaning(410, "NuropbDeprecatedError", "No longer offered"),
    Code.INVALID_PARAMS: _Meaning(422, "NuropbValidationError", "Invalid parameters"),
    Code.RATE_LIMITED: _Meaning(429, "NuropbException", "Too many messages", transient=True),
    Code.TOO_MANY_IN_FLIGHT: _Meaning(
        429, "NuropbException", "Too many requests at once", transient=True
    ),
    Code.CANCELLED: _Meaning(499, "NuropbException", "Cancelled"),
    Code.SERVICE_ERROR: _Meaning(502, "NuropbException", "The service reported an error"),
    Code.SERVICE_UNAVAILABLE: _Meaning(
        503, "NuropbNotDeliveredError", "The service is not available", transient=True
    ),
    Code.MESH_UNAVAILABLE: _Meaning(
        503, "NuropbTransportError", "The service mesh is not available", transient=True
    ),
    Code.TIMEOUT: _Meaning(504, "NuropbTimeoutError", "No answer in time", transient=True),
    Code.INTERNAL: _Meaning(500, "NuropbException", "Internal error"),
}


class Problem(Exception):
    """An error that may be shown to a client.

    Raised anywhere below `routes` and `realtime`, which only render it. `description` is shown
    as it is: it must hold no internals. Whatever helps only the operator goes to the log.
    """

    def __init__(
        self, code: Code, description: str | None = None, *, outcome: Outcome = Outcome.NOT_SENT
    ) -> None:
        self.code = code
        self.description = description or _MEANINGS[code].description
        self.outcome = outcome
        super().__init__(f"{code}: {self.description}")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code.status

    @property
    def retryable(self) -> bool:
        """True only when repeating can help and cannot do the work twice."""
        return self.outcome is Outcome.NOT_SENT and _MEANINGS[self.code].transient

    def as_error(self) -> dict[str, Any]:
        """The `error` object of a response frame.

        `error` holds the class name that NuroPb has for the code, so that clients of `nuropb_gw`
        find what they knew (`docs/protocol.md`).
        """
        return {
            "error": _MEANINGS[self.code].error,
            "description": self.description,
            "code": self.code,
            "retryable": self.retryable,
            "outcome": self.outcome,
        }

    def as_problem_json(self) -> dict[str, Any]:
        """The body of an HTTP error, by RFC 9457 (`application/problem+json`)."""
        return {
            "type": f"urn:problem:{self.code}",
            "title": _MEANINGS[self.code].description,
            "status": self.status,
            "detail": self.description,
            "code": self.code,
            "retryable": self.retryable,
            "outcome": self.outcome,
        }


def describe(error: ValidationError, skip: int = 0) -> str:
    """The first thing that is wrong, in words, without the value that was given.

    `skip` is how many parts of its place come from the union's tag and not from the value.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"][skip:])
    return f"{where}: {first['msg']}" if where else first["msg"]

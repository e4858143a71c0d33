"""The error codes, which are the same over HTTP and over WebSockets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError


class Outcome(StrEnum):
    """Whether the requested work was done."""

    NOT_SENT = "not_sent"
    """It was not started."""
    DONE = "done"
    """It was started and has finished, with this error."""
    UNKNOWN = "unknown"
    """It may have been done, may not, or may still be running."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    status: int
    error: str
    description: str
    transient: bool = False
    """A later retry can succeed."""


class Code(StrEnum):
    """Every error code that a client can receive."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    DEPRECATED = "deprecated"
    TOO_LARGE = "too_large"
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
        """The HTTP status of the code."""
        return _MEANINGS[self].status


_MEANINGS = {
    Code.UNAUTHENTICATED: _Meaning(401, "NuropbAuthenticationError", "Sign in first"),
    Code.FORBIDDEN: _Meaning(403, "NuropbAuthorizationError", "Not allowed"),
    Code.NOT_FOUND: _Meaning(404, "NuropbHandlingError", "Not found"),
    Code.METHOD_NOT_ALLOWED: _Meaning(405, "NuropbHandlingError", "Method not allowed"),
    Code.CONFLICT: _Meaning(409, "NuropbHandlingError", "Already in progress"),
    Code.DEPRECATED: _Meaning(410, "NuropbDeprecatedError", "No longer offered"),
    Code.TOO_LARGE: _Meaning(413, "NuropbValidationError", "The request is too large"),
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
    Code.TIMEOUT: _Meaning(504, "NuropbTimeoutError", "No reply in time", transient=True),
    Code.INTERNAL: _Meaning(500, "NuropbException", "Internal error"),
}


class ErrorObject(BaseModel):
    """The error of a response. `code` is for programs, `description` for people."""

    error: str
    """The name of NuroPb's exception class, for clients of `nuropb_gw`."""
    description: str
    code: Code
    retryable: bool
    """A retry can succeed and cannot do the work twice."""
    outcome: Outcome
    retry_after_ms: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None
    """A retry can succeed after this time. Absent if it is not known."""


class Problem(Exception):
    """An error that is sent to a client.

    Raise it from any handler, endpoint or dependency. Clients see `description` unchanged, so it
    must not contain internals: log what only an operator needs.
    """

    def __init__(
        self,
        code: Code,
        description: str | None = None,
        *,
        outcome: Outcome = Outcome.NOT_SENT,
        retry_after_seconds: float | None = None,
    ) -> None:
        """`retry_after_seconds`: when a retry can succeed, if that is known. Clients get it as
        `retry_after_ms`, and over HTTP as the header `Retry-After` too."""
        self.code = code
        self.description = _well_formed(description) if description else _MEANINGS[code].description
        self.outcome = outcome
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{code}: {self.description}")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code.status

    @property
    def retryable(self) -> bool:
        """Whether a retry can succeed and cannot do the work twice."""
        return self.outcome is Outcome.NOT_SENT and _MEANINGS[self.code].transient

    def as_error(self) -> dict[str, Any]:
        """The `error` object of a response frame.

        `error` is the name of NuroPb's exception class for the code, for compatibility with clients
        of `nuropb_gw` (`docs/protocol.md`).
        """
        return {
            "error": _MEANINGS[self.code].error,
            "description": self.description,
            "code": self.code,
            "retryable": self.retryable,
            "outcome": self.outcome,
            **self._retry_after_ms(),
        }

    def as_problem_json(self) -> dict[str, Any]:
        """The body of an HTTP error response (RFC 9457, `application/problem+json`)."""
        return {
            "type": f"urn:problem:{self.code}",
            "title": _MEANINGS[self.code].description,
            "status": self.status,
            "detail": self.description,
            "code": self.code,
            "retryable": self.retryable,
            "outcome": self.outcome,
            **self._retry_after_ms(),
        }

    def _retry_after_ms(self) -> dict[str, int]:
        if self.retry_after_seconds is None:
            return {}
        return {"retry_after_ms": math.ceil(self.retry_after_seconds * 1000)}


def _well_formed(text: str) -> str:
    """The text with `?` for half a surrogate pair, which JSON in UTF-8 cannot contain."""
    return text.encode("utf-8", "replace").decode()


def describe(error: ValidationError, skip: int = 0) -> str:
    """The first error as `location: message`, without the invalid value.

    `skip` is the number of leading parts of the location that are tags of a union.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"][skip:])
    return f"{where}: {first['msg']}" if where else first["msg"]

"""Which methods of mesh services browsers may call, and with which options."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bff.realtime.handlers import Handler

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_METHOD = re.compile(r"[A-Za-z0-9_.*-]{1,128}")


@dataclass(frozen=True, slots=True)
class Exposure:
    """The options of `RealtimeRouter.expose` for a method of a mesh service."""

    scopes: frozenset[str]
    check: Handler | None = None
    params: type[BaseModel] | None = None
    result: Any = None
    """The type of the result, for the contract; None if it is not declared."""
    timeout: float | None = None
    """Seconds; None for `REQUEST_TIMEOUT_SECONDS`."""
    encrypted: bool = False
    cancel_method: str | None = None
    keep_result: bool = False


def check_names(service: str, method: str) -> None:
    """
    Raises:
        ValueError: `service` is not a valid name, or `method` not a valid name or pattern.
    """
    if not _SERVICE.fullmatch(service):
        raise ValueError(
            f"{service!r} is not a service name: use letters, digits, '_', '.' and '-', "
            "and begin with a letter or a digit"
        )
    if not _METHOD.fullmatch(method):
        raise ValueError(
            f"{method!r} is not a method name: use letters, digits, '_', '.' and '-', "
            "and '*' for a pattern"
        )


@dataclass(frozen=True, slots=True)
class Pattern:
    """The methods of one service whose names match a pattern. `*` matches any characters."""

    service: str
    pattern: str
    """As it is written in `expose`."""
    methods: re.Pattern[str]
    exposure: Exposure

    @classmethod
    def of(cls, service: str, pattern: str, exposure: Exposure) -> Pattern:
        """Compile a pattern as it is written in `expose`."""
        # `fnmatch` does not backtrack into a `*` that has matched; ".*" for each would.
        return cls(service, pattern, re.compile(fnmatch.translate(pattern)), exposure)

    def matches(self, service: str, method: str) -> bool:
        """Whether the method is exposed. Names that begin with `_` or `nuropb_` never match."""
        return (
            service == self.service
            and not method.startswith(("_", "nuropb_"))
            and self.methods.fullmatch(method) is not None
        )

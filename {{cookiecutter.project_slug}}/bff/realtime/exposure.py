"""Which methods of mesh services browsers may call, and on what terms."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel

from bff.realtime.handlers import Handler

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,128}")


@dataclass(frozen=True, slots=True)
class Exposure:
    """The terms on which browsers may call a method of a mesh service."""

    scopes: frozenset[str]
    check: Handler | None = None
    params: type[BaseModel] | None = None
    timeout: float | None = None
    encrypted: bool = False
    cancel_method: str | None = None
    keep_result: bool = False


def check_names(service: str, method: str) -> None:
    """
    Raises:
        ValueError: no service or method can be called that.
    """
    if not _NAME.fullmatch(service):
        raise ValueError(f"{service!r} is no name of a service")
    if not _PATTERN.fullmatch(method):
        raise ValueError(f"{method!r} is no name of a method, nor a pattern")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Methods of one service by a pattern: `*` stands for any characters."""

    service: str
    methods: re.Pattern[str]
    exposure: Exposure

    @classmethod
    def of(cls, service: str, pattern: str, exposure: Exposure) -> Pattern:
        """The pattern as it is written in `expose`."""
        return cls(service, re.compile(re.escape(pattern).replace(r"\*", ".*")), exposure)

    def matches(self, service: str, method: str) -> bool:
        """Whether it exposes that method. Private and reserved ones must be named in full."""
        return (
            service == self.service
            and not method.startswith(("_", "nuropb_"))
            and self.methods.fullmatch(method) is not None
        )

"""Reads what another version of the engine has stored: during a rolling update two run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar("T", bound=_Dataclass)


def from_stored(kind: type[T], stored: Mapping[str, Any]) -> T:
    """A dataclass from its stored fields, without those that only a newer version has."""
    try:
        return kind(**stored)  # nearly always, and fast: a connect reads such fields
    except TypeError:
        return kind(**{one.name: stored[one.name] for one in fields(kind) if one.name in stored})

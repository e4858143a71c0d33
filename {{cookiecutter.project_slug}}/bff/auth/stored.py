"""Reads what another version of the engine has stored: during a rolling update two run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def from_stored(kind: type[T], stored: Mapping[str, Any]) -> T:
    """A dataclass from its stored fields, without those that only a newer version has."""
    try:
        return kind(**stored)  # nearly always, and fast: a connect reads such fields
    except TypeError:
        return kind(**{one.name: stored[one.name] for one in fields(kind) if one.name in stored})

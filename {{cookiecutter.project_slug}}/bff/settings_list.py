"""Lists all settings for `bff settings`: value, where it comes from, explanation. Finds misspelt
names."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from bff.docstrings import attribute_docstrings
from bff.settings import Settings

_HIDDEN = "**********"
_IS_SECRET = re.compile(r"_(secret|password|passphrase|token|key|credentials)$")
_USERINFO = re.compile(r"([a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_QUERY_VALUE = re.compile(r"([?&][^=&\s]+=)[^&\s]+")
_WIDTH = 96
_EXAMPLE_NAME = re.compile(r"^#?\s*([A-Z][A-Z0-9_]*)=", re.MULTILINE)
_SIMILAR = 0.8
_SIMILAR_IN_ENVIRONMENT = 0.9
"""Higher, because other programs own most variables of the environment."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One setting."""

    name: str
    """In capitals, as in the environment."""
    value: str
    """Without secrets."""
    source: str
    """`environment`, `.env`, `default`, or `other` for a settings source that the app added."""
    explanation: str

    def __str__(self) -> str:
        text = textwrap.indent(textwrap.fill(self.explanation, _WIDTH), "    ")
        return f"{self.name}={self.value}  ({self.source})\n{text}".rstrip()


def list_settings(settings: Settings) -> Iterator[Listed]:
    """Every field of the settings and of their class, in the order of declaration."""
    kind = type(settings)
    environment, env_file = EnvSettingsSource(kind), DotEnvSettingsSource(kind)
    explanations = _docstrings(kind)
    for name, field in kind.model_fields.items():
        if environment.get_field_value(field, name)[0] is not None:
            source = "environment"
        elif env_file.get_field_value(field, name)[0] is not None:
            source = ".env"
        else:
            source = "other" if name in settings.model_fields_set else "default"
        explanation = field.description or explanations.get(name, "")
        yield Listed(name.upper(), _shown(name, getattr(settings, name)), source, explanation)


def unknown_names(kind: type[Settings], folder: Path | None = None) -> Iterator[str]:
    """One sentence for each name that looks like a misspelt setting.

    In `.env`: every name that is neither a setting nor in `.env.example`. In the environment, where
    most variables belong to other programs: only names that are similar to a setting.
    """
    folder = folder or Path.cwd()
    settings = {name.upper() for name in kind.model_fields}
    known, example = set(settings), folder / ".env.example"
    if example.is_file():
        known.update(_EXAMPLE_NAME.findall(example.read_text(encoding="utf-8")))
    in_file = {
        name.upper() for name in DotEnvSettingsSource(kind, env_file=folder / ".env").env_vars
    }
    in_environment = {name.upper() for name in os.environ} - in_file
    for name in sorted(in_file - known):
        meant = difflib.get_close_matches(name, settings, 1, _SIMILAR)
        hint = f", do you mean {meant[0]}?" if meant else "; it is ignored"
        yield f"{name} in .env is not a setting{hint}"
    for name in sorted(in_environment - known):
        if meant := difflib.get_close_matches(name, settings, 1, _SIMILAR_IN_ENVIRONMENT):
            yield f"{name} in the environment is not a setting, do you mean {meant[0]}?"


def _shown(name: str, value: Any) -> str:
    """The value as in the environment. Secrets, and what may hold one in a URL, are hidden."""
    if value is None or value == "":
        return ""
    if _IS_SECRET.search(name):
        return _HIDDEN
    if isinstance(value, float):
        return f"{value:g}"
    text = ",".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)
    if "://" in text:
        text = _QUERY_VALUE.sub(rf"\1{_HIDDEN}", _USERINFO.sub(rf"\1{_HIDDEN}@", text))
    return text


def _docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field, also of fields that the class inherits."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BaseModel) and not base.__module__.startswith("pydantic"):
            found |= attribute_docstrings(base)
    return found

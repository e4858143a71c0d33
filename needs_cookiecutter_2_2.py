"""Loaded by cookiecutter before the first question: proposes and checks answers.

Hooks could only check after the last question, and cookiecutter prints a traceback below their
message. Versions before 2.0 cannot load a module of the template: they stop before the first
question, and their message contains the name of this module.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cookiecutter import __version__  # type: ignore[import-untyped]
from cookiecutter.exceptions import (  # type: ignore[import-untyped]
    FailedHookException,
    UnknownExtension,
)
from jinja2 import Environment
from jinja2.ext import Extension

NEEDED = "2.2"
TOO_OLD = (2, 1, 1)
"""The last version before it: cookiecutter 2.2.0 calls itself 2.1.2.dev0."""

LOCK = Path(__file__).parent / "{{cookiecutter.project_slug}}" / "requirements-dev.lock"
"""All direct and indirect dependencies of a project."""

SLUG = re.compile(r"[a-z](?:[a-z0-9-]{0,39}[a-z0-9])?")
EMAIL = re.compile(r"[^@\s\"\\]+@[^@\s\"\\]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

OWN = frozenset(["app", "bff", "bff-client", "client", "migrations", "pip", "setuptools", "tests"])
"""Folders of the project, and packages that a virtual environment contains from the start."""
EXAMPLE = "orders"
"""The mesh service of the example. The slug is the name of the BFF on the mesh."""

CHECKED = ("project_name", "project_slug", "description", "author_name", "author_email")


class Answers(Extension):
    """The filters `slug` and `checked`, and `current_year`.

    Raises:
        UnknownExtension: cookiecutter is too old.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        if tuple(int(part) for part in re.findall(r"\d+", __version__)[:3]) <= TOO_OLD:
            raise UnknownExtension(
                f"This template needs cookiecutter {NEEDED} or later; this is {__version__}. "
                f'Install it: pip install "cookiecutter>={NEEDED},<3"'
            )
        slugify = environment.filters["slugify"]
        environment.filters["slug"] = lambda name: slug(slugify(name, max_length=40))
        environment.filters["checked"] = checked
        environment.globals["current_year"] = str(time.gmtime().tm_year)


def slug(simplified: str) -> str:
    """A valid slug from a project name in which only a-z, 0-9 and `-` are left, perhaps nothing."""
    if not simplified:
        return "my-bff"
    if not simplified[0].isalpha():
        return f"bff-{simplified}"[:40].rstrip("-")
    return simplified if refused_name(simplified) is None else f"{simplified}-bff"


def checked(answers: Mapping[str, Any]) -> str:
    """Check the answers given so far. Returns an empty string, for use inside a default.

    Raises:
        FailedHookException: an answer is invalid. The message has a sentence for each problem.
    """
    found = refusals({name: answers[name] for name in CHECKED if name in answers})
    if found:
        raise FailedHookException("\n".join(found))
    return ""


def refusals(answers: Mapping[str, str]) -> list[str]:
    """One sentence per problem; empty if the answers are valid."""
    found = []
    for name, value in answers.items():
        label = name.replace("_", " ")
        if not value.strip():
            found.append(f"The {label} is empty.")
        elif CONTROL.search(value):
            found.append(f"The {label} contains a line break or another control character.")
    slug, email = answers.get("project_slug", ""), answers.get("author_email", "")
    if slug.strip() and not SLUG.fullmatch(slug):
        found.append(
            f"The project slug {slug!r} is invalid: it must begin with a letter a-z, contain only "
            "a-z, 0-9 and -, end with a letter or digit, and have at most 41 characters."
        )
    named = refused_name(slug)
    if named:
        found.append(f"The project slug {slug!r} is the name of {named}. Choose another one.")
    if email.strip() and not EMAIL.fullmatch(email):
        found.append(f"The author email {email!r} is not an e-mail address.")
    return found


def refused_name(slug: str) -> str | None:
    """What already has this name; None if a project may have it."""
    if slug == EXAMPLE:
        return "the example's mesh service"
    if slug in OWN or slug in dependencies():
        return "a package or folder of the project"
    return None


def dependencies() -> frozenset[str]:
    """The packages in the project's environment. A project with the name of one would be installed
    in place of it."""
    return frozenset(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))

"""Refuses invalid answers, with one sentence each."""

from __future__ import annotations

import json
import re
import sys

ANSWERS = json.loads(
    r"""
{{
    dict(
        project_name=cookiecutter.project_name,
        project_slug=cookiecutter.project_slug,
        description=cookiecutter.description,
        author_name=cookiecutter.author_name,
        author_email=cookiecutter.author_email,
    ) | tojson
}}
"""
)

SLUG = re.compile(r"[a-z](?:[a-z0-9-]{0,39}[a-z0-9])?")
EMAIL = re.compile(r"[^@\s\"\\]+@[^@\s\"\\]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

TAKEN = frozenset(
    [
        "aio-pika",
        "aiormq",
        "aiosqlite",
        "alembic",
        "app",
        "asyncpg",
        "bff",
        "bff-client",
        "click",
        "client",
        "cookiecutter",
        "fakeredis",
        "fastapi",
        "fastapi-offline",
        "greenlet",
        "hatchling",
        "httptools",
        "httpx2",
        "migrations",
        "mypy",
        "orjson",
        "prometheus-client",
        "pydantic-settings",
        "pytest",
        "pytest-asyncio",
        "python-jose",
        "redis",
        "ruff",
        "sqlmodel",
        "tests",
        "types-python-jose",
        "uvicorn",
        "uvloop",
        "websockets",
        "yarl",
    ]
)
"""A project named like one of its dependencies would be installed in place of it."""


def refusals(answers: dict[str, str]) -> list[str]:
    """One sentence per problem; empty if the answers are valid."""
    found = []
    for name, value in answers.items():
        label = name.replace("_", " ")
        if not value.strip():
            found.append(f"The {label} is empty.")
        elif CONTROL.search(value):
            found.append(f"The {label} contains a line break or another control character.")
    slug, email = answers["project_slug"], answers["author_email"]
    if slug and not SLUG.fullmatch(slug):
        found.append(
            f"The project slug {slug!r} is invalid: it must begin with a letter a-z, contain only "
            "a-z, 0-9 and -, end with a letter or digit, and have at most 41 characters."
        )
    if slug in TAKEN:
        found.append(
            f"The project slug {slug!r} is the name of a package or folder of the project. Choose "
            "another one."
        )
    if email.strip() and not EMAIL.fullmatch(email):
        found.append(f"The author email {email!r} is not an e-mail address.")
    return found


def main() -> None:
    found = refusals(ANSWERS)
    for sentence in found:
        print(sentence, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

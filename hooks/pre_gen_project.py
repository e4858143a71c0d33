"""Refuse answers that would make a broken project, with one sentence each."""

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
        "greenlet",
        "hatchling",
        "httptools",
        "httpx",
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
"""A project named like a package that it needs would be installed in its place."""


def refusals(answers: dict[str, str]) -> list[str]:
    """What is wrong with the answers, a sentence each; empty if nothing is."""
    found = []
    for name, value in answers.items():
        label = name.replace("_", " ")
        if not value.strip():
            found.append(f"The {label} is empty.")
        elif CONTROL.search(value):
            found.append(f"The {label} holds a line break or another control character.")
    slug, email = answers["project_slug"], answers["author_email"]
    if slug and not SLUG.fullmatch(slug):
        found.append(
            f"The project slug {slug!r} must begin with a letter a-z, go on with a-z, 0-9 and -, "
            "end with a letter or digit, and be 41 characters long at most."
        )
    if slug in TAKEN:
        found.append(
            f"The project slug {slug!r} is the name of a package or folder that the project uses."
        )
    if email.strip() and not EMAIL.fullmatch(email):
        found.append(f"The author email {email!r} is no e-mail address.")
    return found


def main() -> None:
    found = refusals(ANSWERS)
    for sentence in found:
        print(sentence, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

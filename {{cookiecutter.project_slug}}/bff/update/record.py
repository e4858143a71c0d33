"""Who owns which file, and what a project records of the template: `.bff/`.

The template's hook runs this file on its own, so it imports the standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

PROJECT_JSON = ".bff/project.json"
BASE_ZIP = ".bff/base.zip"


class Owner(Enum):
    LOCAL = "made on this machine; neither recorded nor updated"
    ENGINE = "replaced whole by an update"
    USER = "never touched by an update"
    LOCK = "replaced if it was not changed since the last update"
    SHARED = "merged: the user's changes and the template's"


OWNERS = (
    ("*__pycache__/*", Owner.LOCAL),
    ("*.pyc", Owner.LOCAL),
    ("*.egg-info/*", Owner.LOCAL),
    ("*.sqlite3*", Owner.LOCAL),
    (".*_cache/*", Owner.LOCAL),
    ("*/.*_cache/*", Owner.LOCAL),
    (".git/*", Owner.LOCAL),
    (".venv/*", Owner.LOCAL),
    (".bff/*", Owner.LOCAL),
    (".env", Owner.LOCAL),
    ("bff/*", Owner.ENGINE),
    ("client/*", Owner.ENGINE),
    ("app/*", Owner.USER),
    ("tests/*", Owner.USER),
    ("migrations/versions/*", Owner.USER),
    ("requirements*.lock", Owner.LOCK),
    ("*", Owner.SHARED),
)
"""Patterns of file names relative to the project; the first that matches decides. `*` matches any
characters, `/` too."""

VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)
SCP_ADDRESS = re.compile(r"[\w.-]+@[\w.-]+:\S+")
ABBREVIATION = re.compile(r"[A-Za-z][\w-]+:(?!//)[^\\\s@]+")
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Record:
    """What a project knows of the template's version that it was last made or updated from."""

    data: Mapping[str, Any]
    """The content of `.bff/project.json`; keys that a newer version added are kept."""
    base: Mapping[str, bytes]
    """Each shared file as the template made it."""

    @property
    def template(self) -> str:
        return str(self.data["template"])

    @property
    def checkout(self) -> str:
        return str(self.data["checkout"])

    @property
    def version(self) -> str:
        return str(self.data["version"])

    @property
    def year(self) -> str:
        """The year in the licence."""
        return str(self.data["year"])

    @property
    def answers(self) -> dict[str, Any]:
        return dict(self.data["answers"])

    @property
    def engine(self) -> dict[str, str]:
        """The SHA-256 of each file of the engine."""
        return dict(self.data["engine"])

    @property
    def locks(self) -> dict[str, str]:
        """The SHA-256 of each lock file."""
        return dict(self.data["locks"])

    def files(self) -> dict[str, bytes]:
        """The two files under `.bff/`; equal records give equal bytes."""
        text = json.dumps(self.data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        return {BASE_ZIP: _zip(self.base), PROJECT_JSON: text.encode()}


def owner(name: str) -> Owner:
    return next(owner for pattern, owner in OWNERS if fnmatchcase(name, pattern))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def public_address(address: str) -> str:
    """The template's address without credentials; empty if it is a path on this machine."""
    parts = urlsplit(address)
    if parts.scheme.endswith("file"):
        return ""
    if parts.netloc:
        user, _, host = parts.netloc.rpartition("@")
        login = user.partition(":")[0] if parts.scheme.endswith("ssh") else ""
        return urlunsplit((parts.scheme, f"{login}@{host}" if login else host, parts.path, "", ""))
    known = SCP_ADDRESS.fullmatch(address) or ABBREVIATION.fullmatch(address)
    return address if known else ""


def read(project: Path) -> Record:
    """The record under `.bff/`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    try:
        data = json.loads((project / PROJECT_JSON).read_bytes())
        with zipfile.ZipFile(project / BASE_ZIP) as archive:
            base = {name: archive.read(name) for name in archive.namelist()}
        record = Record(data, base)
        _ = record.template, record.checkout, record.version, record.year
        _ = record.answers, record.engine, record.locks
    except (KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f".bff/ is damaged: {error}") from error
    return record


def make(project: Path, context: Mapping[str, Any]) -> Record:
    """The record of a project just made, from cookiecutter's context.

    A project that has a record already is being made again: of its files only those that the
    record names are taken for the template's, so that nothing of the user's gets into it.
    """
    names = list(_names(project))
    if (project / PROJECT_JSON).is_file():
        known = read(project)
        ours = {*known.base, *known.locks}
        names = [name for name in names if owner(name) is Owner.ENGINE or name in ours]
    content = {name: (project / name).read_bytes() for name in names}
    found = VERSION.search((project / "bff" / "version.py").read_text(encoding="utf-8"))
    template = public_address(str(context.get("_template") or ""))
    data = {
        "template": template,
        "checkout": context.get("_checkout") or "",
        "version": found[1] if found else "",
        "year": context.get("__year") or "",
        "answers": {name: value for name, value in context.items() if not name.startswith("_")},
        "engine": _digests(content, Owner.ENGINE),
        "locks": _digests(content, Owner.LOCK),
    }
    return Record(data, {n: c for n, c in content.items() if owner(n) is Owner.SHARED})


def _digests(content: Mapping[str, bytes], whose: Owner) -> dict[str, str]:
    return {name: digest(content[name]) for name in content if owner(name) is whose}


def _names(project: Path) -> Iterator[str]:
    for folder, below, files in os.walk(project):
        inside = Path(folder).relative_to(project)
        below[:] = [
            name for name in below if owner(f"{(inside / name).as_posix()}/") is not Owner.LOCAL
        ]
        for name in sorted(files):
            path = (inside / name).as_posix()
            if owner(path) is not Owner.LOCAL:
                yield path


def _zip(content: Mapping[str, bytes]) -> bytes:
    """Not compressed: the bytes do not depend on zlib's version, and git compresses them anyway."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            info = zipfile.ZipInfo(name, TIMESTAMP)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content[name])
    return buffer.getvalue()


def main() -> None:
    """Write the record of the project in this folder; cookiecutter's context comes on stdin."""
    project = Path.cwd()
    files = make(project, json.load(sys.stdin)).files()
    (project / ".bff").mkdir(exist_ok=True)
    for name, content in files.items():
        (project / name).write_bytes(content)


if __name__ == "__main__":
    main()

"""The owner of each file, and the record of the template in `.bff/`.

The template's hook runs this file as a script, so it imports only the standard library.
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
    LOCAL = "created on this machine; neither recorded nor updated"
    ENGINE = "replaced as a whole by an update"
    USER = "never touched by an update"
    LOCK = "replaced if unchanged since the last update"
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
"""Patterns of file names relative to the project; the first match decides. `*` matches any
characters, including `/`."""

VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)
SCP_ADDRESS = re.compile(r"[\w.-]+@[\w.-]+:\S+")
ABBREVIATION = re.compile(r"[A-Za-z][\w-]+:(?!//)[^\\\s@]+")
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Record:
    """The template version from which a project was generated or last updated."""

    data: Mapping[str, Any]
    """The content of `.bff/project.json`, including unknown keys of newer versions."""
    base: Mapping[str, bytes]
    """Each shared file as the template generated it."""

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
        """The year in the license."""
        return str(self.data["year"])

    @property
    def answers(self) -> dict[str, Any]:
        return dict(self.data["answers"])

    @property
    def engine(self) -> dict[str, str]:
        """The SHA-256 of each engine file."""
        return dict(self.data["engine"])

    @property
    def locks(self) -> dict[str, str]:
        """The SHA-256 of each lock file."""
        return dict(self.data["locks"])

    def files(self) -> dict[str, bytes]:
        """The two files in `.bff/`. Equal records give equal bytes."""
        text = json.dumps(self.data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        return {BASE_ZIP: _zip(self.base), PROJECT_JSON: text.encode()}


def owner(name: str) -> Owner:
    return next(owner for pattern, owner in OWNERS if fnmatchcase(name, pattern))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def public_address(address: str) -> str:
    """The template's URL without credentials; empty for a local path."""
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
    """Read the record in `.bff/`.

    Raises:
        FileNotFoundError: a file of the record is missing.
        ValueError: the record is invalid.
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
    """Create the record of a generated project from cookiecutter's context."""
    content = {name: (project / name).read_bytes() for name in _names(project)}
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
    """A zip file without compression, so that its bytes do not depend on zlib's version; git
    compresses it anyway."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            info = zipfile.ZipInfo(name, TIMESTAMP)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content[name])
    return buffer.getvalue()


def main() -> None:
    """Write the record of the project in this folder. Reads cookiecutter's context from stdin."""
    project = Path.cwd()
    files = make(project, json.load(sys.stdin)).files()
    (project / ".bff").mkdir(exist_ok=True)
    for name, content in files.items():
        (project / name).write_bytes(content)


if __name__ == "__main__":
    main()

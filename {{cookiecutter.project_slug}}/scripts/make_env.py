"""Write `.env` from `.env.example` with new secrets. An existing `.env` is not changed."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EMPTY_SECRET = re.compile(r"^([A-Z0-9_]+_(?:SECRET|PASSWORD))=$", re.MULTILINE)
SECRET_BYTES = 32


def with_secrets(example: str) -> str:
    """Fill each empty `…_SECRET=` and `…_PASSWORD=` with random hexadecimal digits: a program may
    take what begins with `-` for an option."""
    return EMPTY_SECRET.sub(lambda match: f"{match[1]}={secrets.token_hex(SECRET_BYTES)}", example)


def make_env(root: Path = ROOT) -> bool:
    """Write `root/.env`, readable by its owner only. Returns False if it exists."""
    text = with_secrets((root / ".env.example").read_text(encoding="utf-8"))
    try:
        descriptor = os.open(root / ".env", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return True


if __name__ == "__main__":
    if make_env():
        print("Wrote .env with new secrets. Do not commit it; git ignores it.")

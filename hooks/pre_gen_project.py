"""Refuses to generate into a folder that holds a project, before a file is written.

The answers are checked here once more, because a replay skips the questions:
{{ cookiecutter | checked }}
"""

from __future__ import annotations

import sys
from pathlib import Path

ALLOWED = frozenset([".git", ".gitignore", "LICENSE", "LICENSE.md", "README.md"])
"""What a new, empty repository contains."""


def refusal(folder: Path) -> str | None:
    """Why nothing may be generated into this folder; None if it may be."""
    names = {path.name for path in folder.iterdir()} - ALLOWED
    if (folder / ".bff" / "project.json").is_file():
        return (
            f"{folder} already holds a project of this template; generating it again would "
            "overwrite your code. For a newer version of the template, run this in the project: "
            "make update"
        )
    if names:
        return (
            f"{folder} is not empty: it contains {', '.join(sorted(names)[:3])}. Choose another "
            "project name, slug or output folder."
        )
    return None


def main() -> None:
    sentence = refusal(Path.cwd())
    if sentence:
        print(f"{sentence}\n(Below is only cookiecutter's report that it stops.)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

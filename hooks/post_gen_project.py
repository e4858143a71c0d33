"""Finishes the generated project: removes files that git ignores or that were not chosen, records
the answers, writes `.env`, and prints the next steps."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

CONTEXT = json.loads(
    r"""
{{ cookiecutter | tojson }}
"""
)
"""The answers. Keys that begin with an underscore are cookiecutter's own."""

ONLY_FOR = (
    ("ci", "github", ".github"),
    ("ci", "gitlab", ".gitlab-ci.yml"),
    ("ci", "gitlab", "renovate.json"),
)
"""Question, answer, and a file or folder that is kept only for this answer."""


def remove_ignored(folder: Path, patterns: Sequence[str], top: bool = True) -> None:
    """Remove the files and folders that the project's `.gitignore` names.

    Cookiecutter copies every file in the template's folder. A clone in which someone has worked
    contains caches, and may contain an `.env` with secrets.
    """
    for path in folder.iterdir():
        if path.name == ".git":
            continue
        if is_ignored(path, patterns, top):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        elif path.is_dir():
            remove_ignored(path, patterns, top=False)


def is_ignored(path: Path, patterns: Sequence[str], top: bool) -> bool:
    """Whether git ignores this path. Understands the patterns that our `.gitignore` uses: `name`,
    `name/`, `/name/` and `!name`."""
    ignored = False
    for pattern in patterns:
        name = pattern.lstrip("!").strip("/")
        folders_only, top_only = pattern.endswith("/"), pattern.startswith("/")
        if (
            fnmatchcase(path.name, name)
            and (path.is_dir() or not folders_only)
            and (top or not top_only)
        ):
            ignored = not pattern.startswith("!")
    return ignored


def make_writable(project: Path) -> None:
    """Cookiecutter copies permissions, and the template's folder may be read-only."""
    for folder, below, files in os.walk(project):
        below[:] = [name for name in below if name != ".git"]
        for path in [Path(folder), *(Path(folder, name) for name in files)]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def remove_unchosen(project: Path, chosen: Mapping[str, str]) -> None:
    """Remove the files and folders of other answers.

    Raises:
        FileNotFoundError: `ONLY_FOR` lists a path that the template does not have.
    """
    for question, answer, name in ONLY_FOR:
        path = project / name
        if not path.exists():
            raise FileNotFoundError(f"hooks/post_gen_project.py lists {name}, which does not exist")
        if chosen[question] == answer:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def next_steps(project: Path) -> str:
    """The commands that start the project, to copy and paste."""
    shell = Path(os.environ.get("PWD", project.parent))
    inside = project.is_relative_to(shell)
    folder = str(project.relative_to(shell) if inside else project)
    if os.name == "nt":
        commands = [
            f'cd "{folder}"',
            r"py scripts\install.py",
            r".venv\Scripts\bff dev",
        ]
    else:
        commands = [
            f"cd {shlex.quote(folder)}",
            "make dev        # serve at http://127.0.0.1:8000 with embedded Redis and mesh",
            "make test",
            "make help       # all commands",
        ]
    return "\n".join(
        ["", f"{project.name} is ready. Next:", "", *(f"    {c}" for c in commands), ""]
    )


def main() -> None:
    project = Path.cwd()
    ignored = (project / ".gitignore").read_text(encoding="utf-8").splitlines()
    make_writable(project)
    remove_ignored(project, [line for line in ignored if line and not line.startswith("#")])
    remove_unchosen(project, CONTEXT)
    subprocess.run(
        [sys.executable, "bff/update/record.py"],
        cwd=project,
        input=json.dumps(CONTEXT),
        text=True,
        check=True,
    )
    subprocess.run([sys.executable, "scripts/make_env.py"], cwd=project, check=True)
    print(next_steps(project))


if __name__ == "__main__":
    main()

"""Finish the generated project: drop what was not chosen, record what was answered, write `.env`,
say what to do next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CONTEXT = json.loads(
    r"""
{{ cookiecutter | tojson }}
"""
)
"""The answers and, beginning with an underscore, what cookiecutter itself knows."""

ONLY_FOR = (
    ("ci", "github", ".github"),
    ("ci", "gitlab", ".gitlab-ci.yml"),
)
"""Question, answer, and the file or folder that only this answer keeps."""


def drop_what_was_not_chosen(project: Path, chosen: dict[str, str]) -> None:
    """Remove each path whose answer was not given.

    Raises:
        FileNotFoundError: the manifest names a path that the template does not have. Over a
            finished project, which has its `.env`, a path that is gone already is no error.
    """
    finished = (project / ".env").exists()
    for question, answer, name in ONLY_FOR:
        path = project / name
        if not path.exists():
            if finished and chosen[question] != answer:
                continue
            raise FileNotFoundError(f"hooks/post_gen_project.py names {name}: there is none")
        if chosen[question] == answer:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def next_steps(project: Path) -> str:
    """The commands that start the project, as they can be typed."""
    shell = Path(os.environ.get("PWD", project.parent))
    inside = project.is_relative_to(shell)
    folder = str(project.relative_to(shell) if inside else project)
    if os.name == "nt":
        commands = [
            f'cd "{folder}"',
            "py -m venv .venv",
            r".venv\Scripts\pip install --require-hashes -r requirements-dev.lock",
            r".venv\Scripts\pip install --no-deps --no-build-isolation --editable .",
            r".venv\Scripts\bff dev",
        ]
    else:
        commands = [
            f"cd {shlex.quote(folder)}",
            "make dev        # runs at http://127.0.0.1:8000 with embedded engines",
            "make test",
            "make help       # the other commands",
        ]
    return "\n".join(
        ["", f"{project.name} is ready. Next:", "", *(f"    {c}" for c in commands), ""]
    )


def main() -> None:
    project = Path.cwd()
    drop_what_was_not_chosen(project, CONTEXT)
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

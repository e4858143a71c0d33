"""Finishes the generated project: removes files that were not chosen, records the answers, writes
`.env`, and prints the next steps."""

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
"""The answers. Keys that begin with an underscore are cookiecutter's own."""

ONLY_FOR = (
    ("ci", "github", ".github"),
    ("ci", "gitlab", ".gitlab-ci.yml"),
    ("ci", "gitlab", "renovate.json"),
)
"""Question, answer, and a file or folder that is kept only for this answer."""


def remove_unchosen(project: Path, chosen: dict[str, str]) -> None:
    """Remove the files and folders of other answers.

    Raises:
        FileNotFoundError: `ONLY_FOR` lists a path that the template does not have. If the project
            was generated before (it has an `.env`), a path may already be removed.
    """
    finished = (project / ".env").exists()
    for question, answer, name in ONLY_FOR:
        path = project / name
        if not path.exists():
            if finished and chosen[question] != answer:
                continue
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
            "py -m venv .venv",
            r".venv\Scripts\pip install --no-deps --require-hashes -r requirements-dev.lock",
            r".venv\Scripts\pip install --no-deps --no-build-isolation --editable .",
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

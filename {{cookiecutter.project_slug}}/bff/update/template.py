"""Fetches a template and generates a project from it with cookiecutter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bff.update import git
from bff.update.errors import UpdateError

QUESTIONS = "cookiecutter.json"


def check_is_installed() -> None:
    """Check that cookiecutter, a development dependency, is installed.

    Raises:
        UpdateError: it is not installed.
    """
    if find_spec("cookiecutter") is None:
        raise UpdateError("An update needs cookiecutter. Install it: make install")


def fetch(address: str, checkout: str, into: Path) -> Path:
    """Return the folder of the template: a local one as it is, or a new clone inside `into`.

    Raises:
        UpdateError: it cannot be fetched, or is not a template.
    """
    local = Path(address).expanduser()
    if not local.is_dir():
        template = _download(address, checkout, into)
    elif checkout or not (local / QUESTIONS).is_file():
        template = git.clone(str(local.resolve()), checkout, into)
    else:
        template = local.resolve()
    if not (template / QUESTIONS).is_file():
        raise UpdateError(f"The template has no {QUESTIONS}.")
    return template


def _download(address: str, checkout: str, into: Path) -> Path:
    from cookiecutter.config import get_user_config  # type: ignore[import-untyped]
    from cookiecutter.exceptions import CookiecutterException  # type: ignore[import-untyped]
    from cookiecutter.repository import determine_repo_dir  # type: ignore[import-untyped]

    try:
        abbreviations = get_user_config()["abbreviations"]
        folder, _ = determine_repo_dir(address, abbreviations, into, checkout or None, True)
    except subprocess.CalledProcessError as error:
        output = (error.output or b"").decode(errors="replace").strip()
        raise UpdateError(f"The template cannot be fetched: {output or error}") from error
    except (CookiecutterException, OSError) as error:
        raise UpdateError(f"The template cannot be fetched: {error}") from error
    return Path(folder)


def kept_answers(template: Path, answers: Mapping[str, Any]) -> dict[str, Any]:
    """The answers to questions that the template still asks, without choices it no longer offers.

    Raises:
        UpdateError: the template's questions cannot be read.
    """
    try:
        questions = json.loads((template / QUESTIONS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UpdateError(f"{QUESTIONS} of the template cannot be read: {error}") from error
    return {
        name: answer
        for name, answer in answers.items()
        if name in questions
        and (not isinstance(questions[name], list) or answer in questions[name])
    }


def bake(template: Path, answers: Mapping[str, Any], year: str, into: Path) -> Path:
    """Generate the project in a new folder inside `into` and return its path.

    Questions without an answer take their defaults. The user's cookiecutter configuration has no
    effect.

    Raises:
        UpdateError: cookiecutter failed.
    """
    output, own = into / "output", into / "cookiecutter"
    output.mkdir()
    own.mkdir()
    config = {"cookiecutters_dir": str(own), "replay_dir": str(own), "default_context": {}}
    (own / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input"]
    command += ["--config-file", str(own / "config.yaml"), "--output-dir", str(output)]
    command += ["--accept-hooks", "yes"]
    command += [f"{name}={_literal(answer)}" for name, answer in answers.items()]
    command += [f"__year={year}"] if year else []
    done = subprocess.run(command, capture_output=True)  # noqa: S603
    if done.returncode:
        printed = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise UpdateError(f"cookiecutter failed: {printed}")
    return next(output.iterdir())


def _literal(answer: Any) -> str:
    """An answer for cookiecutter's command line, quoted because it expands templates there."""
    text = str(answer)
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if "{" in text else text

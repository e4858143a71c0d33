"""`scripts/install.py`: what `make install` and `make demo` run."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bake import PROJECT, ROOT
from tests.baked import environment

SCRIPT = ROOT / PROJECT / "scripts" / "install.py"


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests share one virtual environment in it: to make one takes seconds."""
    return tmp_path_factory.mktemp("install")


def lock_of(package: str, folder: Path) -> Path:
    """A lock with one package."""
    text = (ROOT / PROJECT / "requirements-dev.lock").read_text()
    pin = re.search(rf"^{package}==.*\n(?:    .*\n)+", text, flags=re.M)
    assert pin
    path = folder / f"{package}.lock"
    path.write_text(pin[0])
    return path


def install(lock: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--venv", "env", "-r", lock],
        cwd=lock.parent,
        env=environment(**variables),
        capture_output=True,
        text=True,
    )


def imports(lock: Path, package: str) -> bool:
    python = lock.parent / "env" / "bin" / "python"
    return not subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode


def program(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "uv").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "uv").chmod(0o755)
    return folder / "uv"


def test_pip_takes_over_if_uv_fails_and_does_not_print_warnings(
    folder: Path, tmp_path: Path
) -> None:
    """pip warns about each configured folder that does not exist, once for each package."""
    lock = lock_of("iniconfig", folder)
    uv = program(tmp_path / "bin", "echo 'no network' >&2; exit 2")
    done = install(lock, UV=str(uv), PIP_FIND_LINKS=str(tmp_path / "nowhere"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Installing into env with uv ...\nInstalling into env with pip ...\n"
    assert done.stderr == "no network\n"
    assert imports(lock, "iniconfig")


def test_a_variable_that_names_no_uv_does_not_matter(folder: Path) -> None:
    done = install(lock_of("iniconfig", folder), UV="/nowhere/uv")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_uv_is_used_if_it_is_installed(tmp_path: Path) -> None:
    lock = lock_of("iniconfig", tmp_path)
    uv = program(tmp_path / "bin", f'echo "$@" >> "{tmp_path}/calls"')
    path = f"{uv.parent}:/usr/bin:/bin"
    variables = environment(PATH=path)
    variables.pop("UV", None)
    done = subprocess.run(
        [sys.executable, SCRIPT, "--venv", "env", "-r", lock, "-e", "."],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Installing into env with uv ...\n"
    create, packages, project = (tmp_path / "calls").read_text().splitlines()
    assert create.startswith("venv --quiet --seed")
    assert "--no-deps" in packages
    assert f"--require-hashes --requirement {lock}" in packages
    assert project.endswith("--no-build-isolation --editable .")


@pytest.mark.long
def test_the_real_uv_installs_the_whole_lock(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not in PATH")
    lock = tmp_path / "dev.lock"
    shutil.copy(ROOT / PROJECT / "requirements-dev.lock", lock)
    done = install(lock)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Installing into env with uv ...\n"
    assert imports(lock, "fastapi")
    assert (tmp_path / "env" / "bin" / "pip").exists()


def test_a_package_that_was_changed_is_refused(folder: Path) -> None:
    lock = lock_of("pluggy", folder)
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))
    done = install(lock, UV="")
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("OLDEST", (9, 0), "Python 3.11 or later is needed"),
        ("find_spec", lambda _: None, "apt install python3-venv"),
    ],
)
def test_a_python_that_cannot_do_it_is_refused_in_a_sentence(
    name: str, value: Any, sentence: str
) -> None:
    lack = runpy.run_path(str(SCRIPT))["lack"]
    assert lack("") is None
    lack.__globals__[name] = value
    assert sentence in lack("")

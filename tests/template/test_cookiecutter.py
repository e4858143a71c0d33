"""Cookiecutter as users run it: old and new versions, any address, any folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bake import PROJECT, ROOT
from tests.baked import BakedProject, environment
from tests.template.conftest import ANSWERS
from tests.template.test_files import expected
from tests.template.test_update import commit, git

OLDEST = "2.2.0"
PINS = {
    "1.7.3": "f8671531fa96ab14339d0c59b4f662a4f12a2ecacd94a0f70a3500843da588e2",
    "2.1.1": "9f3ab027cec4f70916e28f03470bdb41e637a3ad354b4d65c765d93aad160022",
    OLDEST: "6e1bb4a641e1fc86754a7c55da6ff740e81c1cfb0b3e2fb5699296a395ea2ce2",
}
"""Versions of cookiecutter with their SHA-256. The newest is in the template's lock."""
NEEDED_BY_OLD = """\
jinja2-time==0.2.0 --hash=sha256:d3eab6605e3ec8b7a0863df09cc1d23714908fa61aa6986a845c20ba488b4efa
poyo==0.5.0 --hash=sha256:3e2ca8e33fdc3c411cd101ca395668395dd5dc7ac775b8e809e3def9f9fe041a
six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274
"""
SENTENCES = {
    "1.7.3": "No module named 'needs_cookiecutter_2_2'",
    "2.1.1": "This template needs cookiecutter 2.2 or later; this is 2.1.1. Install it: pip ",
}
ENTER = "\n" * len(ANSWERS)


def installed(version: str) -> Path:
    """A folder that contains this version. Its dependencies are the template's own."""
    folder = ROOT / "build" / "test" / f"cookiecutter-{version}"
    if not folder.exists():
        staged = folder.with_suffix(".new")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        pins = staged / "pins.txt"
        pins.write_text(f"cookiecutter=={version} --hash=sha256:{PINS[version]}\n{NEEDED_BY_OLD}")
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--target", staged, "-r", pins], check=True)
        staged.rename(folder)
    return folder


def cookiecutter(
    *arguments: str | Path, cwd: Path, version: str = "", typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter with a home of its own in `cwd`."""
    if version:
        variables["PYTHONPATH"] = str(installed(version))
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", *arguments],
        cwd=cwd,
        env=environment(HOME=str(cwd / "home"), PWD=str(cwd), **variables),
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def contents(project: BakedProject) -> dict[str, bytes]:
    """All files but the secrets."""
    return {name: (project.path / name).read_bytes() for name in project.files() - {".env"}}


@pytest.mark.parametrize("version", ["", OLDEST], ids=["newest", "oldest"])
def test_the_oldest_and_the_newest_cookiecutter_generate_the_same(
    template: Path, default: BakedProject, tmp_path: Path, version: str
) -> None:
    done = cookiecutter(template, cwd=tmp_path, version=version, typed=ENTER)
    assert done.returncode == 0, done.stdout
    project = BakedProject(tmp_path / "my-bff")
    assert contents(project) == contents(default)


@pytest.mark.parametrize(("version", "sentence"), SENTENCES.items())
def test_a_cookiecutter_that_is_too_old_asks_nothing_and_writes_nothing(
    template: Path, tmp_path: Path, version: str, sentence: str
) -> None:
    done = cookiecutter(template, "-o", "out", cwd=tmp_path, version=version, typed=ENTER)
    assert done.returncode == 1
    assert sentence in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout
    assert not (tmp_path / "out").exists()


def test_readme_and_quick_start_name_the_cookiecutter_that_is_needed() -> None:
    for page in ("README.md", "docs/quick-start.md"):
        assert "cookiecutter 2.2 or later" in " ".join((ROOT / page).read_text().split()), page


@pytest.fixture(name="repository", scope="module")
def repository_fixture(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of the template, with the tag `v1` before a commit that breaks it."""
    path = tmp_path_factory.mktemp("Vorlage für Köln") / "template.git"
    shutil.copytree(template, path)
    git(path, "init", "--quiet")
    commit(path)
    git(path, "tag", "v1")
    (path / PROJECT / "broken.txt").write_text("{{ cookiecutter.unknown }}\n")
    commit(path)
    return path


OUTPUT = "Ausgabe für Köln"


def check(tmp_path: Path, template: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout
    project = BakedProject(tmp_path / OUTPUT / "my-bff")
    assert project.files() == expected(template, ci="github")
    assert f"cd '{OUTPUT}/my-bff'" in done.stdout


def test_a_folder_is_an_address_without_git_and_network(template: Path, tmp_path: Path) -> None:
    done = cookiecutter(
        f"{template}/", "--no-input", "-o", OUTPUT, cwd=tmp_path, PATH="", https_proxy="http://[::]"
    )
    check(tmp_path, template, done)


def test_the_current_folder_is_an_address(template: Path, tmp_path: Path) -> None:
    here = tmp_path / "clone"
    shutil.copytree(template, here)
    done = cookiecutter(".", "--no-input", "-o", Path("..", OUTPUT), cwd=here)
    assert done.returncode == 0, done.stdout
    project = BakedProject(tmp_path / OUTPUT / "my-bff")
    assert project.files() == expected(template, ci="github")
    assert f"cd '{project.path}'" in done.stdout


def test_a_repository_and_a_tag_are_an_address(
    repository: Path, template: Path, tmp_path: Path
) -> None:
    address = f"git+file://{repository}"
    options = ("--checkout", "v1", "--no-input", "-o", OUTPUT)
    check(tmp_path, template, cookiecutter(address, *options, cwd=tmp_path))
    record = json.loads((tmp_path / OUTPUT / "my-bff" / ".bff" / "project.json").read_text())
    assert record["checkout"] == "v1"


def test_a_zip_file_is_an_address(repository: Path, template: Path, tmp_path: Path) -> None:
    archive = tmp_path / "template.zip"
    git(repository, "archive", "--prefix=template-1/", f"--output={archive}", "v1")
    options = ("--no-input", "-o", OUTPUT)
    check(tmp_path, template, cookiecutter(archive, *options, cwd=tmp_path))


def test_a_replay_gives_the_same_project(template: Path, tmp_path: Path) -> None:
    first = cookiecutter(template, "--no-input", "ci=gitlab", cwd=tmp_path)
    assert first.returncode == 0, first.stdout
    again = cookiecutter(template, "--replay", "-o", OUTPUT, cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    one, two = (BakedProject(tmp_path / name) for name in ("my-bff", f"{OUTPUT}/my-bff"))
    assert one.files() == expected(template, ci="gitlab")
    assert contents(one) == contents(two)


def test_a_replay_of_invalid_answers_is_refused(template: Path, tmp_path: Path) -> None:
    cookiecutter(template, "--no-input", cwd=tmp_path)
    replay = tmp_path / "replay.json"
    (recorded,) = (tmp_path / "home" / ".cookiecutter_replay").iterdir()
    replay.write_text(recorded.read_text().replace('"my-bff"', '"9lives"'))
    done = cookiecutter(template, "--replay-file", replay, "-o", OUTPUT, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("The project slug '9lives' is invalid")
    assert not list((tmp_path / OUTPUT).iterdir())

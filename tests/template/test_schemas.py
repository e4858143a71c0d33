"""What a project gives to other programs, checked as these programs would: CI, compose, Docker,
shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.bake import ROOT, bake
from tests.baked import BakedProject

BIN = Path(sys.executable).parent
COMMAND_SECONDS = 120
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

CI_FILES = {
    "github": {
        ".github/workflows/ci.yml": "vendor.github-workflows",
        ".github/dependabot.yml": "vendor.dependabot",
    },
    "gitlab": {
        ".gitlab-ci.yml": "vendor.gitlab-ci",
        "renovate.json": "vendor.renovate",
    },
}
"""Each file and its schema, as check-jsonschema names the one that it ships."""
COMPOSE_FILES = ("compose.yaml", "deploy/compose-publish.yaml")


def tool(name: str) -> str:
    """A program that the template's lock installs, or else the system's."""
    found = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: its package has no wheel for this platform")
    return found


def check(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_schema(schema: str, *paths: Path) -> None:
    check(tool("check-jsonschema"), "--builtin-schema", schema, *paths)


@pytest.fixture(scope="module")
def with_ci(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BakedProject]:
    """A project for each kind of CI."""
    return {
        ci: BakedProject(bake(template, tmp_path_factory.mktemp(ci), {"ci": ci})) for ci in CI_FILES
    }


@pytest.mark.parametrize("ci", CI_FILES)
def test_ci_files_follow_their_schema(with_ci: dict[str, BakedProject], ci: str) -> None:
    project = with_ci[ci]
    for name, schema in CI_FILES[ci].items():
        check_schema(schema, project.path / name)
        assert name not in with_ci["github" if ci == "gitlab" else "gitlab"].files()


def test_compose_files_follow_their_schema(default: BakedProject) -> None:
    check_schema("vendor.compose-spec", *(default.path / name for name in COMPOSE_FILES))


def test_a_file_that_breaks_its_schema_is_found(
    with_ci: dict[str, BakedProject], tmp_path: Path
) -> None:
    """The job called `image`, a reserved word, which GitLab refused."""
    broken = tmp_path / ".gitlab-ci.yml"
    text = with_ci["gitlab"].read(".gitlab-ci.yml").replace("\ndocker-build:", "\nimage:")
    broken.write_text(text)
    with pytest.raises(AssertionError, match="validation errors"):
        check_schema("vendor.gitlab-ci", broken)


def test_the_image_s_recipe_is_clean(default: BakedProject) -> None:
    check(tool("hadolint"), default.path / "Dockerfile")


def test_shell_scripts_are_clean(default: BakedProject) -> None:
    scripts = [
        path
        for folder in (default.path / "deploy", ROOT / ".ci")
        for path in folder.iterdir()
        if path.is_file() and path.read_bytes().startswith(b"#!")
    ]
    assert {"bff", "compose-passwords.sh", "rabbitmq-permissions.sh"} <= {p.name for p in scripts}
    check(tool("shellcheck"), *scripts)


def commands(value: object) -> str:
    """All that a CI file runs."""
    if isinstance(value, dict):
        return "\n".join(
            commands(part) if name not in ("run", "script", "before_script") else str(part)
            for name, part in value.items()
        )
    if isinstance(value, list):
        return "\n".join(commands(part) for part in value)
    return ""


@pytest.mark.parametrize("ci", CI_FILES)
def test_ci_lints_tests_audits_and_builds(with_ci: dict[str, BakedProject], ci: str) -> None:
    loaded: dict[str, Any] = yaml.safe_load(with_ci[ci].read(next(iter(CI_FILES[ci]))))
    run = commands(loaded)
    for needed in ("make lint", "make test", "pip-audit", "docker build"):
        assert needed in run, needed
    if ci == "github":
        test = loaded["jobs"]["test"]
        assert test["strategy"]["matrix"]["python"] == PYTHONS
        assert set(test["services"]) == {"redis", "rabbitmq"}
        assert all(job["timeout-minutes"] <= 10 for job in loaded["jobs"].values())
    else:
        test = loaded["test"]
        assert test["parallel"]["matrix"] == [{"PYTHON_VERSION": PYTHONS}]
        assert [name.split(":")[0] for name in test["services"]] == ["redis", "rabbitmq"]


def test_ci_tests_every_python_that_the_project_allows(default: BakedProject) -> None:
    allowed = re.search(r'^requires-python = ">=([\d.]+)"$', default.read("pyproject.toml"), re.M)
    assert allowed
    assert PYTHONS[0] == allowed[1]
    image = re.findall(r"^FROM python:([\d.]+)", default.read("Dockerfile"), re.M)
    assert set(image) <= set(PYTHONS)


@pytest.mark.parametrize("ci", CI_FILES)
def test_ci_tests_the_servers_of_compose(
    with_ci: dict[str, BakedProject], default: BakedProject, ci: str
) -> None:
    image = re.compile(r"\b(redis|rabbitmq):([\d.]+)-")
    tested = image.findall(with_ci[ci].read(next(iter(CI_FILES[ci]))))
    assert set(tested) == set(image.findall(default.read("compose.yaml")))


@pytest.mark.parametrize("slug", ["null", "on", "e1"])
def test_names_that_yaml_would_read_as_something_else(
    template: Path, tmp_path: Path, slug: str
) -> None:
    project = BakedProject(bake(template, tmp_path, {"project_slug": slug}))
    files = [
        *(project.path / name for name in COMPOSE_FILES),
        *(project.path / "deploy/kubernetes").glob("*.yaml"),
    ]
    for path in files:
        for document in yaml.safe_load_all(path.read_text()):
            assert None not in names(document), path.name
            assert True not in names(document), path.name


def names(value: object) -> list[object]:
    """Everything that stands behind a key `name`."""
    if isinstance(value, dict):
        own = [value["name"]] if "name" in value else []
        return own + [found for part in value.values() for found in names(part)]
    if isinstance(value, list):
        return [found for part in value for found in names(part)]
    return []

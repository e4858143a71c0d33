"""Which modules of the engine an app may import, and the lint errors for all others."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping

import pytest

from tests.baked import BakedProject
from tests.template.conftest import Bake

FACES = ("bff", "bff.endpoints", "bff.testing")
OFFERS = re.compile(r"[Ii]mport ([\w, ]+?) from (bff(?:\.\w+)?)\b")
OWN = "The engine's own, and may change with any update."
MAX_APP_LINES = 550

Bans = Mapping[str, str]


@pytest.fixture
def bans(default: BakedProject) -> Bans:
    """The sentence for each module behind the face."""
    ruff = tomllib.loads(default.read("pyproject.toml"))["tool"]["ruff"]
    banned = ruff["lint"]["flake8-tidy-imports"]["banned-api"]
    return {module: ban["msg"] for module, ban in banned.items()}


def modules(project: BakedProject) -> set[str]:
    """What lies in the engine, and in those of its packages that are a face."""
    folders = (face.replace(".", "/") for face in FACES)
    return {
        ".".join(path.relative_to(project.path).with_suffix("").parts)
        for folder in folders
        for path in (project.path / folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
        if path.name != "__init__.py"
    }


def offered(project: BakedProject, face: str) -> dict[str, str]:
    """Each name of a face, and the module that it comes from."""
    tree = ast.parse(project.read(f"{face.replace('.', '/')}/__init__.py"))
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        if node.module in FACES
        else str(node.module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name: imported[name] for name in names}


def test_every_module_of_the_engine_is_public_or_banned(default: BakedProject, bans: Bans) -> None:
    everything = modules(default)
    open_modules = {
        module
        for face in FACES
        for module in offered(default, face).values()
        if module in everything and module not in bans
    }
    assert everything - set(FACES) - open_modules == set(bans)
    assert open_modules <= {f"{face}.{name}" for face in FACES for name in offered(default, face)}


def test_a_sentence_offers_what_the_faces_take_from_there(
    default: BakedProject, bans: Bans
) -> None:
    wanted: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for face in FACES:
        for name, module in offered(default, face).items():
            for ban in bans:
                if module == ban or module.startswith(f"{ban}."):
                    wanted[ban].add((face, name))
    for module, sentence in bans.items():
        offers = {
            (face, name)
            for names, face in OFFERS.findall(sentence)
            for name in re.split(", | and ", names)
        }
        assert offers == wanted[module], f"pyproject.toml, banned-api, {module}"
        if not offers and module != "bff.testing.plugin":
            assert sentence == OWN


def test_an_app_that_imports_engine_internals_gets_a_lint_error_with_the_right_import(
    bake: Bake, bans: Bans
) -> None:
    project = bake()
    lines = [f"import {module}" for module in bans]
    lines += [f"from {module} import anything" for module in bans]
    (project.path / "app" / "routes" / "behind.py").write_text("\n".join(lines))
    done = project.run(
        sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise",
        "--select", "TID251", ".",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    told = dict(re.findall(r"^app/routes/behind\.py:(\d+):\d+: (TID251 .*)$", done.stdout, re.M))
    expected = [f"TID251 `{module}` is banned: {sentence}" for module, sentence in bans.items()]
    assert list(told.items()) == [(str(n), text) for n, text in enumerate(2 * expected, start=1)]


@pytest.mark.parametrize(
    "line",
    [
        "from bff.cluster.messenger import Messenger",
        "from bff import cluster",
        "import bff; bff.cluster.messenger.Messenger",
    ],
)
def test_every_form_of_import_is_checked(bake: Bake, bans: Bans, line: str) -> None:
    project = bake()
    (project.path / "tests" / "test_behind.py").write_text(f"{line}\n")
    done = project.run(sys.executable, "-m", "ruff", "check", "--no-cache", "tests")
    assert done.returncode == 1, done.stdout
    assert f"`bff.cluster` is banned: {bans['bff.cluster']}" in done.stdout


def test_an_app_is_small(default: BakedProject) -> None:
    lines = sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in (default.path / "app").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    assert lines <= MAX_APP_LINES

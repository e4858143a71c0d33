"""The locks: fresh, complete, with hashes, and without a single address."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.bake import PROJECT, ROOT
from tests.baked import BakedProject, InstalledProject

RUNTIME = ROOT / PROJECT / "requirements.lock"
DEVELOPMENT = ROOT / PROJECT / "requirements-dev.lock"
TEMPLATE = ROOT / "requirements.lock"
NUROPB = ROOT / "tests" / "requirements-nuropb.lock"
BENCH = ROOT / "benchmarks"
BENCHES = [BENCH / "peers.lock", BENCH / "gateway.lock"]
NODES = [
    BENCH / "candidates" / "package-lock.json",
    ROOT / "tests" / "node" / "package-lock.json",
    ROOT / "tests" / "node" / "next" / "package-lock.json",
    ROOT / "tests" / "servers" / "identity_provider" / "package-lock.json",
    ROOT / "tests" / "engine" / "sign_in" / "keycloak" / "package-lock.json",
]
LINE = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?: ; [^\\]+)? \\\n"
    r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
)

MODULES = {"python-jose": "jose"}
LOADED_BY_OTHERS = {"aiosqlite", "asyncpg", "greenlet", "httptools", "uvloop", "websockets"}
"""By SQLAlchemy and uvicorn, which name them as strings."""
PART_OF_OTHERS = {
    "cryptography",
    "hiredis",
    "pamqp",
    "pydantic",
    "pydantic_core",
    "sqlalchemy",
    "starlette",
}
"""Of python-jose[cryptography], redis[hiredis], aio-pika, FastAPI, SQLModel, at the versions these
need."""
LEFT_OUT = {"ecdsa", "pyasn1", "rsa", "six"}
"""Of python-jose, which does not need them beside cryptography: tool.uv in pyproject.toml."""
IN_DEVELOPMENT = {"cookiecutter", "pytest"}
"""What the test kit and `make update` need comes with the extra `dev`."""


@dataclass(frozen=True)
class Lock:
    versions: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Lock:
        text = path.read_text()
        found = list(LINE.finditer(text))
        assert "".join(match[0] for match in found) == text, f"{path} holds more than pins"
        return cls({match["name"]: match["version"] for match in found})

    def lacks(self, requirements: list[str]) -> list[str]:
        """The requirements that the lock does not satisfy."""
        missing = []
        for requirement in map(Requirement, requirements):
            version = self.versions.get(canonicalize_name(requirement.name))
            if version is None or not requirement.specifier.contains(version):
                missing.append(str(requirement))
        return missing


@pytest.mark.parametrize(
    "path", [RUNTIME, DEVELOPMENT, TEMPLATE, NUROPB, *BENCHES], ids=lambda p: p.name
)
def test_a_lock_holds_pins_and_hashes_and_nothing_else(path: Path) -> None:
    assert Lock.read(path).versions
    assert "://" not in path.read_text()


@pytest.mark.parametrize("lock", NODES, ids=lambda lock: lock.parent.name)
def test_the_lock_of_node_holds_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    packages = json.loads(text)["packages"]
    wanted = json.loads(lock.with_name("package.json").read_text())
    locked = packages.pop("")
    for kind in ("dependencies", "devDependencies"):
        assert locked.get(kind) == wanted.get(kind)
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())


def test_the_locks_are_fresh() -> None:
    project = BakedProject(ROOT / PROJECT)
    runtime = project.dependencies()
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert Lock.read(RUNTIME).lacks(runtime) == []
    assert Lock.read(DEVELOPMENT).lacks(runtime + project.development_dependencies()) == []
    assert Lock.read(TEMPLATE).lacks(groups["dev"]) == []
    assert Lock.read(NUROPB).lacks(groups["nuropb"]) == []
    for lock in BENCHES:
        lines = lock.with_suffix(".in").read_text().splitlines()
        assert Lock.read(lock).lacks([line for line in lines if not line.startswith("#")]) == []


def test_development_runs_on_the_versions_of_the_image() -> None:
    assert Lock.read(RUNTIME).versions.items() <= Lock.read(DEVELOPMENT).versions.items()


@pytest.mark.parametrize("path", [TEMPLATE, BENCH / "peers.lock"], ids=lambda path: path.name)
def test_what_is_used_beside_the_project_has_its_versions(path: Path) -> None:
    mine, theirs = Lock.read(path).versions, Lock.read(DEVELOPMENT).versions
    assert {n: mine[n] for n in mine.keys() & theirs} == {
        n: theirs[n] for n in mine.keys() & theirs
    }


def test_the_engine_s_imports_and_its_dependencies_agree(default: BakedProject) -> None:
    imported = imports(default, "bff") - IN_DEVELOPMENT
    modules = module_names(default.dependencies(of="engine"))
    assert modules - imported - {"sqlmodel"} <= LOADED_BY_OTHERS
    assert imported - modules - {"bff"} <= PART_OF_OTHERS


def test_the_app_needs_what_it_names_and_what_the_engine_brings(default: BakedProject) -> None:
    imported = imports(default, "app") | imports(default, "migrations")
    own, engine = (module_names(default.dependencies(of=of)) for of in ("app", "engine"))
    assert own <= imported
    assert imported - own - engine - {"app", "bff"} <= PART_OF_OTHERS


def imports(project: BakedProject, folder: str) -> set[str]:
    """The packages that the code in a folder imports, Python's own excepted."""
    found: set[str] = set()
    for name in project.files():
        if name.startswith(f"{folder}/") and name.endswith(".py"):
            for node in ast.walk(ast.parse(project.read(name))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def module_names(requirements: list[str]) -> set[str]:
    names = (Requirement(line).name for line in requirements)
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def test_no_lock_of_a_project_holds_what_python_jose_can_do_without() -> None:
    for lock in (RUNTIME, DEVELOPMENT):
        assert not LEFT_OUT & Lock.read(lock).versions.keys()


def test_what_the_lock_installs_is_whole(installed: InstalledProject) -> None:
    done = installed.run(installed.python, "-m", "pip", "check")
    left_out = re.compile(
        rf"python-jose \S+ requires ({'|'.join(LEFT_OUT)}), which is not installed\."
    )
    complaints = [line for line in done.stdout.splitlines() if not left_out.fullmatch(line)]
    assert complaints in ([], ["No broken requirements found."])
    done = installed.run(installed.bff, "--help")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("makefile", [ROOT / "Makefile", ROOT / PROJECT / "Makefile"])
def test_make_lock_locks_for_the_oldest_python(makefile: Path) -> None:
    """Locked for a newer one, packages that only an older one needs would be missing."""
    metadata = tomllib.loads((ROOT / PROJECT / "pyproject.toml").read_text())["project"]
    oldest = metadata["requires-python"].removeprefix(">=")
    (compile_,) = re.findall(r"^COMPILE := (.*)$", makefile.read_text(), flags=re.M)
    assert f"--python-version {oldest} " in compile_
    assert "--universal --generate-hashes" in compile_

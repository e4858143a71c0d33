"""The docs match the code: frames, codes, limits, metrics, settings, commands, examples, links."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bake import PROJECT, ROOT, template_files
from tests.docs.customised import EXAMPLES

DOCS = ROOT / "docs"
"""Pages of the template."""
PROJECT_DOCS = ROOT / PROJECT / "docs"
"""Pages of a generated project."""
ROOTS = (EXAMPLES, PROJECT_DOCS / "examples")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
    ROOT / PROJECT / "README.md",
    ROOT / PROJECT / "client" / "README.md",
    *sorted(PROJECT_DOCS.rglob("*.md")),
]
FACTS = """
import json
import bff
from bff.cli import main
from bff.connections import close_codes, messages
from bff.db.database import VERSION_TABLE
from bff.db.tables import EngineTable
from bff.errors import Code, Problem, Outcome
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

out = [kind.type for kind in messages._Outbound.__subclasses__()] + ["error"]
inside = messages.InboundFrame.__origin__.__args__
print(json.dumps({
    "codes": {code: [code.status, Problem(code).retryable] for code in Code},
    "closes": {code.name: code for code in close_codes.CloseCode},
    "in": [kind.model_fields["type"].annotation.__args__[0] for kind in inside],
    "out": sorted(set(out)),
    "hello": list(messages.Hello("", "", "", 0, 0, {}).payload()["event"]),
    "error": list(Problem(Code.TIMEOUT).as_error()),
    "settings": {name.upper(): field.default for name, field in Settings.model_fields.items()},
    "metrics": [
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
    ],
    "commands": list(main.commands),
    "tables": [*EngineTable.metadata.tables, VERSION_TABLE],
    "face": bff.__all__,
}, default=str))
"""
PARSE = """
import json, sys
from bff.connections.messages import parse
for frame in json.load(sys.stdin):
    parse(frame)
"""


def title(page: Path) -> str:
    """The folder and name of a page, as the id of a test."""
    return f"{page.parent.name}/{page.name}".replace(f"{PROJECT}/", "project/")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(in_project(FACTS))
    return found


@pytest.fixture(scope="module")
def protocol() -> str:
    return (PROJECT_DOCS / "protocol.md").read_text(encoding="utf-8")


# The protocol


def test_the_protocol_lists_exactly_the_error_codes_of_the_code(
    protocol: str, facts: dict[str, Any]
) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .* \| (.*) \| (.*) \|$", protocol, re.MULTILINE)
    assert {code: int(status) for code, status, _, _ in rows} == {
        code: status for code, (status, _) in facts["codes"].items()
    }
    for code, _, outcomes, retryable in rows:
        never_begun = "not_sent" in outcomes
        assert (retryable != "no") == (never_begun and facts["codes"][code][1]), code


def test_the_protocol_lists_exactly_the_close_codes_of_the_code(
    protocol: str, facts: dict[str, Any]
) -> None:
    rows = re.findall(r"^\| (\d{4}) \| `(\w+)` \|", protocol, re.MULTILINE)
    assert {name: int(code) for code, name in rows} == facts["closes"]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_close_codes_that_a_page_names_exist(page: Path, facts: dict[str, Any]) -> None:
    ends_of_ranges = {4000, 4499, 4999}
    named = {int(code) for code in re.findall(r"\b4[05]\d\d\b(?! waiting)", prose(page))}
    assert named <= set(facts["closes"].values()) | ends_of_ranges | {4500}


def test_the_protocol_has_a_section_for_each_frame_type(
    protocol: str, facts: dict[str, Any]
) -> None:
    out, _, inwards = protocol.partition("\n## To the BFF\n")
    assert set(sections(out)) == set(facts["out"])
    assert set(sections(inwards)) == set(facts["in"])


def test_the_example_frames_are_valid_and_complete(protocol: str, facts: dict[str, Any]) -> None:
    shown_in = [json.loads(text) for text in blocks(protocol, "json in")]
    shown_out = [json.loads(text) for text in blocks(protocol, "json out")]
    in_project(PARSE, json.dumps(shown_in))
    assert {frame["type"] for frame in shown_in} == set(facts["in"])
    assert {frame["type"] for frame in shown_out} == set(facts["out"])
    (hello,) = (frame for frame in shown_out if frame["payload"].get("topic") == "hello")
    assert list(hello["payload"]["event"]) == facts["hello"]
    errors = [frame["payload"]["error"] for frame in shown_out if frame["type"] == "response"]
    for error in filter(None, errors):
        assert list(error) == facts["error"]


def test_the_limits_on_the_page_are_the_defaults(protocol: str, facts: dict[str, Any]) -> None:
    table = protocol.partition("\n## Limits\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*`) \| (.*) \| .* \|$", table, re.MULTILINE)
    assert rows
    for names, values in rows:
        numbers = [float(number) for number in re.findall(r"\d+", values)]
        defaults = [float(facts["settings"][name]) for name in re.findall(r"`(\w+)`", names)]
        assert numbers == defaults, names


# Operation


def test_the_operators_page_lists_exactly_the_metrics(facts: dict[str, Any]) -> None:
    page = (PROJECT_DOCS / "operate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(bff_\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(facts["metrics"])


_LEVELS = {
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
}
"""The methods of a logger, and the levels that the operators' page lists."""


def logged(source: str) -> set[tuple[str, str]]:
    """The message and level of each call of a logger that the page must list."""
    return {
        (call.args[0].value, _LEVELS[call.func.attr])
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in _LEVELS
        and ast.unparse(call.func.value).endswith("logger")
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def test_the_operators_page_lists_the_log_lines_at_warning_and_above() -> None:
    page = (PROJECT_DOCS / "operate.md").read_text(encoding="utf-8").split("## Log lines")[1]
    rows = re.findall(r"^\| ([^|]+) \| ([A-Z, ]+) \|", page, re.MULTILINE)
    listed = {(message, level) for message, levels in rows for level in levels.split(", ")}
    sources = [path.read_text() for path in (ROOT / PROJECT / "bff").rglob("*.py")]
    written = set().union(*map(logged, sources))
    written = {line for line in written if not line[0].startswith("Exception in ASGI")}
    assert len(written) > 50
    assert written <= listed, "the page lacks them"
    texts = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
    }
    assert {message for message, _ in listed} <= texts, "the code does not log them"
    messages = [message for message, _ in rows]
    assert messages == sorted(messages, key=str.casefold), "in alphabetical order"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_metrics_settings_and_commands_that_a_page_names_exist(
    page: Path, facts: dict[str, Any]
) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bbff_[a-z_]+\b", text)) <= {*facts["metrics"], *facts["tables"]}
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)[`=]", text))
    outside = {"TEST_REDIS_URL", "TEST_AMQP_URL", "TEST_DATABASE_URL", "FORWARDED_ALLOW_IPS"}
    outside |= {"ONLY_FOR", "COMPOSE_FILE", "SSL_CERT_FILE"}
    outside |= {*re.findall(r"^(\w+)=", examples_env(), re.MULTILINE)}
    assert named <= {*facts["settings"], *facts["closes"], *facts["face"]} | outside
    commands = set(re.findall(r"(?:`|bin/|exec bff-1 )bff ([a-z][a-z-]*)", text))
    assert commands <= set(facts["commands"])
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert targets <= make_targets(ROOT) | make_targets(ROOT / PROJECT)


# Examples and links


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_code_blocks_equal_their_example_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name, shown in re.findall(r"^```\w+ ([\w./]+\.\w+)\n(.*?)^```$", text, re.M | re.S):
        path = next((path for root in ROOTS if (path := root / name).is_file()), EXAMPLES / name)
        assert shown.strip("\n") == path.read_text(encoding="utf-8").strip("\n"), name


def test_every_example_file_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for path in EXAMPLES.rglob("*"):
        name = path.relative_to(EXAMPLES).as_posix()
        if path.is_file() and "cache" not in name and name != "ruff.toml":
            assert re.search(rf"^```\w+ {re.escape(name)}$", text, re.MULTILINE), name


def test_the_readme_shows_code_of_the_example_feature() -> None:
    orders = (ROOT / PROJECT / "app/routes/orders.py").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = blocks(readme, "python")
    for piece in re.split(r"\n{3,}", shown.strip()):
        assert piece in orders
    assert "realtime.event(" in shown


# Links


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_and_anchors_exist(page: Path) -> None:
    """Pages of a project link only to files of the project."""
    house = ROOT / PROJECT if page.is_relative_to(ROOT / PROJECT) else ROOT
    for target in re.findall(r"\]\((?!https?:)([^)\s]*)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert path.is_relative_to(house), target
        if anchor:
            assert anchor in anchors(path), target


def test_pages_that_files_of_a_project_name_exist() -> None:
    for path in template_files():
        if not path.is_relative_to(PROJECT) or path.suffix == ".lock":
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        assert "the template's `docs" not in text, path
        for page in re.findall(r"\b(?:docs|client|bff)/[\w/-]+\.md\b", text):
            assert (ROOT / PROJECT / page).exists(), f"{path}: {page}"


def test_names_and_titles_of_pages_are_unique() -> None:
    for of in (title, heading):
        pages = [of(page) for page in PAGES if page.name != "README.md"]
        assert len(pages) == len(set(pages))


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_prose_is_wrapped_at_100_columns(page: Path) -> None:
    if page.name == "benchmarks.md":
        pytest.skip("written by `make bench`")
    long = [line for line in prose(page).splitlines() if len(line) > 100 and line[0] != "|"]
    assert not long


def in_project(python: str, given: str = "") -> str:
    """Run Python code in the project's folder of the template; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", python],
        cwd=ROOT / PROJECT,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        input=given,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def examples_env() -> str:
    """The example settings, in the format of `.env.example`."""
    return (EXAMPLES / "env.example.txt").read_text(encoding="utf-8")


def heading(page: Path) -> str:
    """The title of a page."""
    return page.read_text(encoding="utf-8").splitlines()[0]


def prose(page: Path) -> str:
    """The page without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def blocks(text: str, info: str) -> list[str]:
    return re.findall(rf"^```{info}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def sections(text: str) -> list[str]:
    return re.findall(r"^### `(\w+)`$", text, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub derives from the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def make_targets(folder: Path) -> set[str]:
    makefile = (folder / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))

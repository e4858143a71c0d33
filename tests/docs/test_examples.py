"""The examples of the docs work in a generated project, over real sockets."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest

from scripts.bake import PROJECT, ROOT
from tests import servers
from tests.baked import InstalledProject
from tests.docs.customised import EXAMPLES, OVERLAY, PAGE, customise
from tests.e2e.browser import Browser
from tests.e2e.deployment import Deployment
from tests.e2e.processes import Instance, Program
from tests.e2e.waiting import until_true
from tests.servers import Server

CHANGED = [
    name
    for path in sorted(EXAMPLES.glob("app/**/*.py"))
    if (ROOT / PROJECT / (name := path.relative_to(EXAMPLES).as_posix())).exists()
]
"""The examples that replace a file of the generated project."""
FACES = ("bff", "bff.codec", "bff.endpoints", "bff.testing")
TOKEN_EXPIRED, REVOKED = 4003, 4504
SCOPES = ("profile", "chat", "orders", "invoices", "rooms")


@pytest.fixture(scope="module")
def customised(
    installed: InstalledProject, tmp_path_factory: pytest.TempPathFactory
) -> InstalledProject:
    """The default project with all examples. Tests must not change its folder."""
    return customise(installed, tmp_path_factory.mktemp("documented") / "my-bff")


@pytest.mark.parametrize(
    "path",
    [*EXAMPLES.rglob("*.py"), *(ROOT / PROJECT / "app").rglob("*.py")],
    ids=lambda path: path.name,
)
def test_examples_and_app_import_only_the_public_api(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names if alias.name.split(".")[0] == "bff"}
            assert modules <= {"bff"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bff":
            assert node.module in FACES
            offered = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(offered)


@pytest.mark.parametrize("file", CHANGED)
def test_an_example_that_replaces_a_file_keeps_its_names(
    installed: InstalledProject, file: str
) -> None:
    assert named(installed.read(file)) <= named((EXAMPLES / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_examples_pass_the_projects_own_checks(customised: InstalledProject, tool: str) -> None:
    files = [path.relative_to(EXAMPLES) for folder in OVERLAY for path in python_files(folder)]
    service = EXAMPLES / "services" / "greeter.py"
    config = f"--config{'-file' if tool == 'mypy' else ''}=pyproject.toml"
    done = customised.run(customised.python, "-m", *tool.split(), config, *files, service)
    assert done.returncode == 0, done.stdout


def test_the_example_tests_pass(customised: InstalledProject) -> None:
    tests = [path.relative_to(EXAMPLES) for path in python_files("tests")]
    done = customised.run(customised.python, "-m", "pytest", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_make_revision_writes_the_example_revision(
    installed: InstalledProject, tmp_path: Path
) -> None:
    """Without the example's revision it writes the same operations; with it, no operations."""
    project = customise(installed, tmp_path / "my-bff")
    variables = in_development(project, tmp_path).settings
    own = project.path / "migrations" / "versions" / "0001_notes.py"
    expected = own.read_text(encoding="utf-8")
    own.unlink()
    command = ["make", *revision_command(), f"VENV={project.venv}"]

    done = project.run(*command, **variables)
    assert done.returncode == 0, done.stdout
    (written,) = own.parent.glob("*_notes.py")
    assert operations(written.read_text(encoding="utf-8")) == operations(expected)
    written.unlink()

    own.write_text(expected, encoding="utf-8")
    done = project.run(*command, **variables)
    assert done.returncode == 0, done.stdout
    (written,) = set(own.parent.glob("*_notes.py")) - {own}
    assert written.read_text(encoding="utf-8").count("    pass\n") == 2


@pytest.mark.long
def test_a_project_without_the_example_passes_its_checks_and_tests(
    installed: InstalledProject, tmp_path: Path
) -> None:
    """Follows the steps of `docs/customise.md` under "Delete the example"."""
    project = installed.copy(tmp_path / "my-bff")
    steps = PAGE.read_text(encoding="utf-8").partition("\n## Delete the example\n")[2]
    first, rest = steps.split("\n2. ")
    for name in re.findall(r"`([^`]+)`", first):
        path = project.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    changed = set(re.findall(r"In `([^`]+)`", rest))
    assert changed == {"app/routes/__init__.py", "app/main.py", "compose.yaml"}
    remove(
        project.path / "app/routes/__init__.py",
        r"\borders, ",
        r"^    orders\.router,\n",
        r"^    orders\.realtime,\n",
    )
    remove(project.path / "app/main.py", r"^from app\.development.*\n", r"^ +stand_ins=.*\n")
    remove(project.path / "compose.yaml", r"^  orders:\n(    .*\n|\n)+")
    assert "orders" not in project.read("compose.yaml")
    make = ("make", f"VENV={project.venv}")
    for target in ("lint", "test"):
        done = project.run(*make, target)
        assert done.returncode == 0, done.stdout


async def test_route_method_setting_and_table_work_in_a_running_project(
    customised: InstalledProject, tmp_path: Path
) -> None:
    deployment = in_development(customised, tmp_path, NOTES_PER_USER="1")
    with serving(deployment) as bff:
        with user(bff, deployment, "alice") as alice, user(bff, deployment, "bob") as bob:
            assert alice.get("/profile").json()["user_id"] == "alice"
            kept = alice.post("/notes", json={"text": "buy tea"})
            too_many = alice.post("/notes", json={"text": "and milk"})
            assert (kept.status_code, too_many.status_code) == (201, 409)
            assert bob.get("/notes").json() == []
            metrics = alice.get("/metrics").text
            assert "notes_kept_total 1.0" in metrics
            assert "bff_connections" in metrics
        async with (
            browser(bff, deployment, "alice") as alices,
            browser(bff, deployment, "bob") as bobs,
        ):
            said = await alices.ask("chat", "say", {"to": "bob", "text": "hello"})
            assert said["result"] == {"connections": 1}
            heard = await bobs.event("chat.said")
            assert heard["event"] == {"by": "alice", "text": "hello"}
            empty = await alices.ask("chat", "say", {"to": "bob", "text": ""})
            assert empty["error"]["code"] == "invalid_params"
            owes = await alices.ask("account", "read")
            assert owes["result"] == {"cents": 1250}
            hidden = await alices.ask("invoices", "pay", {})
            assert hidden["error"]["code"] == "not_found"
        async with browser(bff, deployment, "carol", "orders") as carols:
            refused = await carols.ask("chat", "say", {"to": "bob", "text": "hello"})
            assert refused["error"]["code"] == "forbidden"


async def test_topics_and_presence_work_in_a_running_project(
    customised: InstalledProject, tmp_path: Path
) -> None:
    deployment = in_development(
        customised, tmp_path, PRESENCE_GRACE_SECONDS="0", LEASE_RENEWAL_SECONDS="0.2"
    )
    with serving(deployment) as bff:
        async with browser(bff, deployment, "bob") as bobs:
            secret = await bobs.answered("subscribe", topics=[{"topic": "rooms.secret"}])
            assert secret["error"]["code"] == "forbidden"
            topics = [{"topic": "rooms.kitchen"}, {"topic": "presence.alice"}]
            assert (await bobs.answered("subscribe", topics=topics))["error"] is None
            async with browser(bff, deployment, "alice") as alices:
                await alices.ask("rooms", "write", {"room": "kitchen", "text": "tea?"})
                heard = await bobs.event("rooms.kitchen")
                assert heard["event"] == {"by": "alice", "text": "tea?"}
                came = await bobs.event("presence.alice")
                assert came["event"] == {"type": "user.online", "user_id": "alice"}
                online = await bobs.ask("rooms", "online", {"users": ["alice", "carol"]})
                assert online["result"] == ["alice"]
            left = await bobs.frame(lambda frame: "user.offline" in str(frame))
            assert left["payload"]["event"]["user_id"] == "alice"


async def test_a_second_mesh_with_another_format_is_called_like_the_first(
    customised: InstalledProject, tmp_path: Path
) -> None:
    broker = servers.private_rabbitmq()
    try:
        broker.control("add_vhost", "ledger")
        broker.control("set_permissions", "-p", "ledger", "guest", ".*", ".*", ".*")
        url = f"{broker.url}ledger"
        deployment = in_development(customised, tmp_path, LEDGER_AMQP_URL=url)
        service: list[str | Path] = [
            sys.executable,
            Path(__file__).with_name("jsonrpc_service.py"),
            url,
        ]
        with (
            program("ledger", service, tmp_path, says="ledger is there"),
            serving(deployment) as bff,
        ):
            async with browser(bff, deployment, "alice") as alices:
                answer = await alices.ask("ledger", "balance", {"currency": "EUR"})
                assert answer["result"] == {"user": "alice", "balance": 7, "currency": "EUR"}
                wrong = (await alices.ask("ledger", "balance"))["error"]
                assert (wrong["code"], wrong["outcome"]) == ("invalid_params", "done")
                assert "db-17" not in str(alices.frames)
            broker.stop()
            with user(bff, deployment, "alice") as alice:
                until_true(lambda: alice.get("/health/ready").status_code == 503, "it is not ready")
                check = alice.get("/health/ready").json()["checks"]["mesh"]
                assert check["reason"].startswith("ledger: ")
    finally:
        broker.remove()


@pytest.mark.parametrize("kind", ["ours", "nuropb"])
async def test_the_example_services_answer_and_publish(
    kind: str,
    installed: InstalledProject,
    rabbitmq_server: Server,
    nuropb_python: Path | None,
    tmp_path: Path,
) -> None:
    if kind == "nuropb" and nuropb_python is None:
        pytest.skip("needs the real nuropb 0.1.8, which runs on Python < 3.12 only")
    url = rabbitmq_server.url
    command: list[str | Path] = (
        [installed.python, EXAMPLES / "services" / "greeter.py"]
        if kind == "ours"
        else [nuropb_python or "", EXAMPLES / "services" / "nuropb_greeter.py", url]
    )
    variables = {"PYTHONPATH": str(installed.path), "AMQP_URL": url}
    script = f"""
import asyncio
from bff import MeshSettings, Problem, connect_mesh
from bff.mesh.events import EventHandler

async def main():
    mesh, heard = connect_mesh(MeshSettings(app_name="listener-{kind}")), asyncio.Queue()
    async def hear(event):
        await heard.put(event.payload)
    mesh.add_event_handler(EventHandler("greeted", "greeter.greeted", hear))
    await mesh.start()
    async with asyncio.timeout(60):
        while mesh.consumers_down or not mesh.status.connected:  # else the event is lost
            await asyncio.sleep(0.1)
        while True:
            try:
                context = dict(user_id="u")
                params = dict(name="Bob")
                print(await mesh.request("greeter", "greet", params, context=context, timeout=2))
                break
            except Problem:
                await asyncio.sleep(0.1)
        print(await heard.get())
    await mesh.stop()

asyncio.run(main())
"""
    with program(f"{kind} greeter", command, tmp_path, **variables):
        done = installed.run(installed.python, "-c", script, AMQP_URL=url)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-2:] == ["Hello Bob", "{'user_id': 'u', 'name': 'Bob'}"]


def test_event_streams_are_read_with_fetch(customised: InstalledProject, tmp_path: Path) -> None:
    """The first token expires at once; the client reconnects with the second one."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node, which has fetch")
    deployment = in_development(customised, tmp_path)
    with serving(deployment) as bff:
        tokens = [deployment.token("bob", lifetime=seconds) for seconds in (1, 600)]
        client = (EXAMPLES / "client" / "events.mjs").as_uri()
        script = f"""
            import {{ events }} from {json.dumps(client)};
            const tokens = {json.dumps(tokens)};
            for await (const frame of events("{bff.url}/events", () => tokens.shift()))
              console.log(JSON.stringify(frame.payload));
        """
        command = [node, "--input-type=module", "-e", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            try:
                assert reader.stdout is not None
                met = (json.loads(line) for line in reader.stdout)
                assert next(met)["event"]["user_id"] == "bob"
                assert next(met)["code"] == TOKEN_EXPIRED
                assert next(met)["event"]["recovered"] == {"user": True, "all": True}
                with user(bff, deployment, "alice") as alice:
                    said = alice.post("/rpc/chat/say", json={"to": "bob", "text": "hello"})
                    assert said.json() == {"connections": 1}
                assert next(met)["event"] == {"by": "alice", "text": "hello"}
                admin = {"Authorization": f"Bearer {deployment.token('carol', 'admin')}"}
                url = f"{bff.url}/admin/users/bob/connections"
                assert httpx2.delete(url, headers=admin).is_success
                assert next(met)["code"] == REVOKED
                assert reader.wait(30) == 0
            finally:
                reader.kill()


async def test_a_real_nuropb_service_answers(
    installed: InstalledProject,
    rabbitmq_server: Server,
    nuropb_python: Path | None,
    tmp_path: Path,
) -> None:
    """Part 4 of the quick start."""
    if nuropb_python is None:
        pytest.skip("needs the real nuropb 0.1.8, which runs on Python < 3.12 only")
    deployment = in_development(installed, tmp_path, AMQP_URL=rabbitmq_server.url)
    with nuropb_service(nuropb_python, rabbitmq_server.url, tmp_path), serving(deployment) as bff:
        async with browser(bff, deployment, "alice") as alices:
            placed = await alices.ask("orders", "place", {"item": "tea", "quantity": 2})
            assert placed["error"] is None
            assert placed["result"]["status"] == "placed"
            assert (await alices.event("order.updated"))["event"] == placed["result"]
        with user(bff, deployment, "alice") as alice:
            assert alice.get("/orders").json() == {"orders": [placed["result"]]}


def python_files(folder: str) -> list[Path]:
    found = sorted((EXAMPLES / folder).rglob("*.py"))
    assert found
    return found


def in_development(project: InstalledProject, folder: Path, **settings: str) -> Deployment:
    engines = {"REDIS_URL": "memory://", "AMQP_URL": "memory://"}
    quick = {"ENVIRONMENT": "development", "DRAIN_SECONDS": "0"}
    return Deployment(project, folder, **engines | quick | settings)


@contextmanager
def serving(deployment: Deployment) -> Iterator[Instance]:
    instance = deployment.serve("bff")
    try:
        instance.until_ready()
        yield instance
    finally:
        deployment.close()


@contextmanager
def nuropb_service(python: Path, amqp_url: str, logs: Path) -> Iterator[None]:
    command: list[str | Path] = [python, EXAMPLES / "services" / "orders.py", amqp_url]
    with program("orders", command, logs, says="orders is on the mesh"):
        yield


@contextmanager
def program(
    name: str, command: Sequence[str | Path], logs: Path, says: str = "", **variables: str
) -> Iterator[None]:
    """Run a program during the block, which begins when the program has printed `says`."""
    running = Program(name, command, cwd=EXAMPLES, logs=logs, variables=variables)
    try:
        until_true(lambda: says in running.output, f"{name} is up")
        yield
    finally:
        running.close()


def user(bff: Instance, deployment: Deployment, name: str) -> httpx2.Client:
    """An HTTP client of a user."""
    headers = {"Authorization": f"Bearer {deployment.token(name, *SCOPES)}"}
    return httpx2.Client(base_url=bff.url, headers=headers, timeout=20, trust_env=False)


@asynccontextmanager
async def browser(
    bff: Instance, deployment: Deployment, name: str, *scopes: str
) -> AsyncIterator[Browser]:
    """An open socket of a user, after the hello."""
    opened = await Browser.open(bff, token=deployment.token(name, *(scopes or SCOPES)))
    await opened.next_frame(0)
    assert opened.hello["user_id"] == name
    yield opened
    await opened.close()


def revision_command() -> list[str]:
    """The arguments of the command `make revision` in `docs/customise.md`."""
    page = PAGE.read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("make revision "))
    return shlex.split(line)[1:]


def operations(revision: str) -> set[str]:
    """The SQLAlchemy calls of a revision, without Alembic's comments."""
    plain = re.sub(r"\b(?:batch_)?op\.f\((.*?)\)", r"\1", revision)
    calls = (node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Call))
    return {text for call in calls if (text := ast.unparse(call)).startswith("sa.")}


def named(code: str) -> set[str]:
    """The names that a file imports and uses."""
    kinds = (ast.Name, ast.Attribute, ast.alias)
    return {ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)}


def remove(file: Path, *patterns: str) -> None:
    """Remove the text that each pattern matches; each must match once."""
    text = file.read_text(encoding="utf-8")
    for pattern in patterns:
        text, times = re.subn(pattern, "", text, flags=re.M)
        assert times == 1, f"{file}: {pattern}"
    file.write_text(text, encoding="utf-8")

"""The examples of the docs do what the docs say, in a real project over real sockets."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from scripts.bake import ROOT
from tests import servers
from tests.baked import InstalledProject
from tests.docs.customised import EXAMPLES, OVERLAY, customise
from tests.e2e.browser import Browser
from tests.e2e.deployment import Deployment
from tests.e2e.processes import Instance, Program
from tests.e2e.waiting import until_true
from tests.servers import Server

ROUTES = "app/routes/__init__.py"
TOKEN_EXPIRED, REVOKED = 4003, 4504
SCOPES = ("profile", "chat", "orders", "invoices", "rooms")


@pytest.fixture(scope="module")
def customised(
    installed: InstalledProject, tmp_path_factory: pytest.TempPathFactory
) -> InstalledProject:
    """The default project with every example in it. Change nothing in its folder."""
    return customise(installed, tmp_path_factory.mktemp("documented") / "my-bff")


def test_the_example_lists_what_the_template_lists_and_more(installed: InstalledProject) -> None:
    ours = (EXAMPLES / ROUTES).read_text(encoding="utf-8")
    for name in ("router", "realtime"):
        listed = [word for word in installed.read(ROUTES).split() if f".{name}" in word]
        assert listed
        for entry in listed:
            assert entry.strip("(),") in ours


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_examples_pass_the_projects_own_checks(customised: InstalledProject, tool: str) -> None:
    files = [path.relative_to(EXAMPLES) for folder in OVERLAY for path in python_files(folder)]
    done = customised.run(customised.python, "-m", *tool.split(), *files)
    assert done.returncode == 0, done.stdout


def test_the_examples_of_tests_pass(customised: InstalledProject) -> None:
    tests = [path.relative_to(EXAMPLES) for path in python_files("tests")]
    done = customised.run(customised.python, "-m", "pytest", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout


def test_the_command_that_writes_a_revision_finds_nothing_missing_in_the_examples(
    installed: InstalledProject, tmp_path: Path
) -> None:
    """It writes an empty revision: the table and the example's own revision agree."""
    project = customise(installed, tmp_path / "my-bff")
    deployment = in_development(project, tmp_path)
    assert deployment.bff("migrate").returncode == 0
    before = project.files()
    done = project.run(project.venv / "bin" / "alembic", *revision_command(), **deployment.settings)
    assert done.returncode == 0, done.stdout
    (revision,) = (name for name in project.files() - before if name.endswith("_notes.py"))
    assert project.read(revision).count("    pass\n") == 2


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
            hidden = await alices.ask("invoices", "pay", {})
            assert hidden["error"]["code"] == "not_found"
        async with browser(bff, deployment, "carol", "orders") as carols:
            refused = await carols.ask("chat", "say", {"to": "bob", "text": "hello"})
            assert refused["error"]["code"] == "forbidden"


async def test_topics_and_presence_work_in_a_running_project(
    customised: InstalledProject, tmp_path: Path
) -> None:
    deployment = in_development(customised, tmp_path, PRESENCE_GRACE="0", LEASE_RENEWAL="0.2")
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


async def test_a_second_mesh_in_another_format_is_called_like_the_first(
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
async def test_the_ten_line_service_answers_and_announces(
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
from app.errors import Problem
from app.mesh.client import connect
from app.mesh.events import EventRule
from app.settings import MeshSettings

async def main():
    mesh, heard = connect(MeshSettings(app_name="listener-{kind}")), asyncio.Queue()
    async def hear(event):
        await heard.put(event.payload)
    mesh.add_rule(EventRule("greeted", "greeter.greeted", hear))
    await mesh.start()
    async with asyncio.timeout(30):
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
    """Two tokens: the first one expires at once, and it comes back with the second."""
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
                assert httpx.delete(url, headers=admin).is_success
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
    """The second half of the quick start."""
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
    """A program that runs meanwhile; it is there when it says so."""
    running = Program(name, command, cwd=EXAMPLES, logs=logs, variables=variables)
    try:
        until_true(lambda: says in running.output, f"{name} is up")
        yield
    finally:
        running.close()


def user(bff: Instance, deployment: Deployment, name: str) -> httpx.Client:
    """Somebody over HTTP."""
    headers = {"Authorization": f"Bearer {deployment.token(name, *SCOPES)}"}
    return httpx.Client(base_url=bff.url, headers=headers, timeout=20, trust_env=False)


@asynccontextmanager
async def browser(
    bff: Instance, deployment: Deployment, name: str, *scopes: str
) -> AsyncIterator[Browser]:
    """Somebody with a socket, past the hello."""
    opened = await Browser.open(bff, token=deployment.token(name, *(scopes or SCOPES)))
    await opened.next_frame(0)
    assert opened.hello["user_id"] == name
    yield opened
    await opened.close()


def revision_command() -> list[str]:
    """What `docs/customise.md` has its reader give to Alembic."""
    page = (ROOT / "docs" / "customise.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(".venv/bin/alembic"))
    return shlex.split(line)[1:]

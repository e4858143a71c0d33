"""The image of a project is built from its Dockerfile, and runs as compose.yaml runs it: without
rights, on a root that is read-only."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import httpx2
import pytest
import yaml

from tests import servers
from tests.baked import BakedProject
from tests.servers.server import free_port
from tests.template.image import Image, build

pytestmark = pytest.mark.long
READY_SECONDS = 60
STOP_SECONDS = 45


@pytest.fixture(scope="module")
def image(default: BakedProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    image = build(default.path, folder)
    yield image
    image.close()
    shutil.rmtree(folder)  # more than a gigabyte


@pytest.fixture
def settings(default: BakedProject) -> Iterator[dict[str, str]]:
    """What compose gives to an instance: `.env`, and what is named under `environment`."""
    if not (default.path / ".env").exists():
        assert default.run("python3", "scripts/make_env.py").returncode == 0
    lines = (line for line in default.read(".env").splitlines() if line and line[0] != "#")
    made = [servers.redis(), servers.rabbitmq(), servers.postgres()]
    yield dict(line.split("=", 1) for line in lines) | {
        "ENVIRONMENT": "production",
        "REDIS_URL": made[0].url,
        "AMQP_URL": made[1].url,
        "DATABASE_URL": made[2].url,
        "FORWARDED_ALLOW_IPS": "*",
        "DRAIN_SECONDS": "1",
    }
    for server in made:
        server.remove()


def test_its_user_is_the_one_that_kubernetes_names(image: Image, default: BakedProject) -> None:
    (deployment,) = yaml.safe_load_all(default.read("deploy/kubernetes/deployment.yaml"))
    wanted = deployment["spec"]["template"]["spec"]["securityContext"]
    user = image.config["User"]
    assert user == str(wanted["runAsUser"])
    assert image.run("id", "-u", "bff").strip() == user
    assert image.run("id", "-g", "bff").strip() == str(wanted["runAsGroup"])


def test_what_is_not_for_the_image_is_not_in_it(image: Image, default: BakedProject) -> None:
    project = image.root / "srv" / "bff"
    assert {path.name for path in project.iterdir()} == {
        *("app", "bff", "client", "deploy", "migrations", "pyproject.toml", "requirements.lock")
    }
    assert [path.name for path in (project / "deploy").iterdir()] == ["bff"]
    assert default.read("bff/version.py").split('"')[1] in image.run("bff", "--version")


def test_it_migrates_serves_is_healthy_and_stops(image: Image, settings: dict[str, str]) -> None:
    image.run("bff", "migrate", **settings)
    assert "engine: " in image.run("bff", "migrate", "--current", **settings)
    image.run("alembic", "current", **settings)
    port = free_port()
    command = [*image.config["Cmd"][:-1], str(port)]
    serving = image.start(*command, **settings)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + READY_SECONDS
    while not answers(f"{url}/health/ready"):
        assert serving.poll() is None, serving.communicate()[0]
        assert time.monotonic() < deadline, "it is not ready"
        time.sleep(0.2)
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    image.run(*(part.replace(":8000", f":{port}") for part in check))
    serving.terminate()
    output, _ = serving.communicate(timeout=STOP_SECONDS)
    assert "drained" in output
    assert settings["JWT_SECRET"] not in output


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).is_success
    except httpx2.TransportError:
        return False

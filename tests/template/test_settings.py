"""`.env.example` is the list of settings for operators: complete, and true to the defaults."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.baked import BakedProject

DEVELOPMENT = {
    "app_name": "my-bff",
    "environment": "development",
    "log_format": "text",
    "redis_url": "memory://",
    "amqp_url": "memory://",
    "allowed_origins": ["http://127.0.0.1:8000", "http://localhost:8000"],
}
"""Where the example differs from the default, on purpose. Secrets differ too."""

DUMP = """
import json
from app.settings import Settings
names = Settings.model_fields
example = Settings(_env_file=".env.example", jwt_secret="for-this-test").model_dump(mode="json")
defaults = {n: f.get_default(call_default_factory=True) for n, f in names.items()}
print(json.dumps({"example": example, "defaults": defaults}))
"""


@pytest.fixture
def dump(default: BakedProject) -> dict[str, dict[str, Any]]:
    done = default.run(sys.executable, "-c", DUMP)
    assert done.returncode == 0, done.stdout
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_example_names_every_setting_once(
    default: BakedProject, dump: dict[str, dict[str, Any]]
) -> None:
    named = re.findall(r"^([A-Z_]+)=", default.read(".env.example"), flags=re.M)
    in_compose = set(re.findall(r"\$\{([A-Z_]+)", default.read("compose.yaml")))
    assert len(named) == len(set(named))
    assert set(named) - in_compose == {name.upper() for name in dump["defaults"]}
    assert in_compose <= set(named)


def test_the_example_shows_the_defaults_but_where_development_differs(
    dump: dict[str, dict[str, Any]],
) -> None:
    expected = dump["defaults"] | DEVELOPMENT | {"jwt_secret": "**********"}
    assert dump["example"] == expected


def test_a_fresh_project_has_valid_settings(default: BakedProject) -> None:
    done = default.run(sys.executable, "-c", "from app.settings import Settings; Settings()")
    assert done.returncode == 0, done.stdout

"""`.env.example` has the settings that operators usually set; `bff settings` lists all."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.baked import BakedProject

USUAL = {
    "APP_NAME",
    "ENVIRONMENT",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "REDIS_URL",
    "AMQP_URL",
    "DATABASE_URL",
    "JWT_SECRET",
    "JWKS_URL",
    "JWT_ALGORITHMS",
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "ALLOWED_ORIGINS",
    "MESH_TOKEN_SECRET",
    "MAX_CONNECTIONS_PER_USER",
    "DRAIN_SECONDS",
}
DEVELOPMENT = {
    "app_name": "my-bff",
    "environment": "development",
    "redis_url": "memory://",
    "amqp_url": "memory://",
}
"""Values of the example that differ from the defaults. So do the origins and the secrets."""

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


def test_the_example_has_the_usual_settings_and_those_of_compose(
    default: BakedProject, dump: dict[str, dict[str, Any]]
) -> None:
    named = re.findall(r"^([A-Z_]+)=", default.read(".env.example"), flags=re.M)
    in_compose = set(re.findall(r"\$\{([A-Z_]+)", default.read("compose.yaml")))
    settings = {name.upper() for name in dump["defaults"]}
    assert len(named) == len(set(named))
    assert set(named) & settings == USUAL
    assert set(named) - settings == in_compose - settings


def test_the_example_has_the_defaults_except_where_development_differs(
    dump: dict[str, dict[str, Any]],
) -> None:
    example, defaults = dump["example"], dump["defaults"]
    assert example.pop("jwt_secret") == "**********"
    assert "http://localhost:8000" in example.pop("allowed_origins")
    assert example == {name: (defaults | DEVELOPMENT)[name] for name in example}


def test_a_new_project_has_valid_settings_which_bff_settings_lists(
    default: BakedProject, dump: dict[str, dict[str, Any]]
) -> None:
    done = default.run(sys.executable, "-m", "bff.cli", "settings")
    assert done.returncode == 0, done.stdout
    listed = re.findall(r"^([A-Z_]+)=(.*)  \((\S+)\)\n    \S", done.stdout, flags=re.M)
    assert [name for name, _, _ in listed] == [name.upper() for name in dump["defaults"]]
    values = {name: (value, source) for name, value, source in listed}
    assert values["JWT_SECRET"] == ("**********", ".env")
    assert values["APP_NAME"] == ("my-bff", ".env")
    assert values["LEASE_SECONDS"] == ("15", "default")

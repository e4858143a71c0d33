"""`bff settings`: every setting with value, source and explanation, and no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from bff.settings import Settings
from bff.settings_list import Listed, list_settings
from pydantic import Field, create_model

SECRET = "f3b8e1d94c7a60259ad1c8e47b3f605d"


class AppSettings(Settings):
    """The settings of an app."""

    billing_url: str = "https://billing.invalid"
    """The billing service.
    It needs no password."""
    billing_api_key: str = ""
    """A secret, although it is not a `SecretStr`."""
    billing_limit: float = Field(default=10, description="Described by pydantic's own means.")


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Listed]:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(
        f"JWT_SECRET={SECRET}\nAPP_NAME=shop\nLOG_LEVEL=DEBUG\nBILLING_API_KEY={SECRET}\n"
        f"BILLING_URL=https://{SECRET}@billing.invalid/?token={SECRET}&page=1\n"
    )
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    monkeypatch.setenv("redis_url", f"rediss://:{SECRET}%2Fwith@sign@localhost:6379/0")
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example,https://b.example")
    return {setting.name: setting for setting in list_settings(AppSettings())}


def test_every_setting_is_listed_with_an_explanation(listed: dict[str, Listed]) -> None:
    assert list(listed) == [name.upper() for name in AppSettings.model_fields]
    assert [name for name, setting in listed.items() if not setting.explanation] == []


def test_where_a_value_comes_from(listed: dict[str, Listed]) -> None:
    assert (listed["APP_NAME"].value, listed["APP_NAME"].source) == ("shop", ".env")
    assert (listed["LOG_LEVEL"].value, listed["LOG_LEVEL"].source) == ("ERROR", "environment")
    assert listed["REDIS_URL"].source == "environment"
    assert (listed["LEASE_SECONDS"].value, listed["LEASE_SECONDS"].source) == ("15", "default")
    origins = listed["ALLOWED_ORIGINS"]
    assert origins.value == "https://a.example,https://b.example"


def test_settings_of_another_source_are_marked() -> None:
    settings = Settings(_env_file=None, app_name="given", jwt_secret=SECRET)
    (name, *_) = list_settings(settings)
    assert (name.value, name.source) == ("given", "other")


def test_no_secret_is_printed(listed: dict[str, Listed]) -> None:
    assert SECRET not in "\n".join(map(str, listed.values()))
    assert listed["JWT_SECRET"].value == listed["BILLING_API_KEY"].value == "**********"
    assert listed["REDIS_URL"].value == "rediss://**********@localhost:6379/0"
    assert listed["BILLING_URL"].value.startswith("https://**********@billing.invalid/?token=***")
    assert listed["JWKS_URL"].value == ""


def test_explanations_of_the_apps_own_settings(listed: dict[str, Listed]) -> None:
    assert listed["BILLING_URL"].explanation == "The billing service. It needs no password."
    assert listed["BILLING_LIMIT"].explanation == "Described by pydantic's own means."
    assert str(listed["APP_NAME"]).startswith(
        "APP_NAME=shop  (.env)\n    Prefix of every Redis key"
    )


def test_a_class_without_source_is_listed_with_what_it_inherits() -> None:
    made = create_model("Made", __base__=AppSettings, made_up=(int, 1))
    settings = made(_env_file=None, jwt_secret=SECRET)
    listed = {setting.name: setting for setting in list_settings(settings)}
    assert listed["MADE_UP"].explanation == ""
    assert listed["BILLING_URL"].explanation == "The billing service. It needs no password."
    assert listed["BILLING_API_KEY"].value == "", "a secret that is not set is not hidden"

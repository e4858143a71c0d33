"""`bff doctor`: rights, the identity provider, exposed methods that require encrypted calls."""

from __future__ import annotations

from typing import Any

import pytest
from bff.doctor import Finding, check_encryption, diagnose
from bff.mesh.describe import MethodDescription, ServiceDescription
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing.running import serve
from fastapi import FastAPI

from tests.engine.echo import create_app

ENCRYPTED, PLAIN = MethodDescription(encrypted=True), MethodDescription()
PAYMENTS = ServiceDescription(
    "payments", methods={"pay": ENCRYPTED, "list": PLAIN, "hidden": ENCRYPTED}
)


@pytest.mark.parametrize("methods", [["pay", "list"], ["*a*", "l*"]], ids=["named", "patterns"])
@pytest.mark.parametrize("encrypted", [True, False])
def test_a_method_that_requires_encryption_must_be_exposed_encrypted(
    methods: list[str], encrypted: bool
) -> None:
    realtime = RealtimeRouter()
    realtime.expose("payments", methods=methods, encrypted=encrypted)
    (finding,) = check_encryption(PAYMENTS, realtime)
    assert finding.ok is encrypted
    assert "payments.pay requires encrypted calls" in str(finding)
    assert ("encrypted=True" in str(finding)) is not encrypted


def test_methods_that_are_not_exposed_are_not_checked() -> None:
    assert check_encryption(PAYMENTS, RealtimeRouter()) == []


async def bad(settings: Settings) -> list[str]:
    """What the doctor finds wrong, except for the database, which nobody has migrated."""
    findings: list[Finding] = await diagnose(create_app(settings).state.bff)
    return [finding.text for finding in findings if not finding.ok and "schema" not in finding.text]


async def test_with_all_rights_nothing_is_wrong(settings: Settings) -> None:
    assert await bad(settings) == []


async def test_what_redis_refuses_is_told_in_its_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> str:
        return "NOPERM no permissions to run the 'xadd' command"

    monkeypatch.setattr("bff.doctor.missing_right", refused)
    assert await bad(settings) == ["Redis: NOPERM no permissions to run the 'xadd' command"]


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({"keys": []}, "no key for JWT_ALGORITHMS"),
    "a key for something else": (
        {"keys": [{"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}]},
        "no key for JWT_ALGORITHMS",
    ),
    "no JWK set": ({"error": "not found"}, "KeyError"),
}


@pytest.mark.parametrize("what", KEYS)
async def test_keys_that_cannot_be_used_are_found(settings: Settings, what: str) -> None:
    served, words = KEYS[what]
    provider = FastAPI()
    provider.add_api_route("/keys", lambda: served)
    async with serve(settings, provider, lifespan="off") as (_, address):
        (found,) = await bad(with_keys(settings, f"http://{address}/keys"))
    assert found.startswith("keys of the identity provider: ")
    assert words in found


async def test_an_identity_provider_that_does_not_answer_is_found(settings: Settings) -> None:
    (found,) = await bad(with_keys(settings, "http://127.0.0.1:1/keys"))
    assert found.startswith("keys of the identity provider: ConnectError")


def with_keys(settings: Settings, url: str) -> Settings:
    changes = {"jwks_url": url, "jwt_secret": None, "jwt_algorithms": ("RS256",)}
    return settings.model_copy(update=changes)


async def test_an_exposed_method_without_scopes_is_a_warning(settings: Settings) -> None:
    open_to_all, scoped = RealtimeRouter(), RealtimeRouter()
    open_to_all.expose("invoices", methods=["list", "get_*"])
    scoped.expose("reports", methods=["list"], scopes=["reports"])
    findings = await diagnose(create_app(settings, open_to_all, scoped).state.bff)
    warned = [str(finding) for finding in findings if finding.warning]
    for name in ("invoices.list", "invoices.get_*", "echo.say"):
        assert any(name in line and line.startswith("warn") for line in warned), warned
    assert not any("reports.list" in line for line in warned)

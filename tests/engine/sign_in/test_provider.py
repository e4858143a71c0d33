"""What the BFF asks an identity provider, as which client, and what its answers and faults mean."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import orjson
import pytest
from bff.auth.oidc import provider
from bff.auth.oidc.errors import AnswerLost, GrantRefused
from bff.auth.oidc.metadata import ProviderMetadata
from bff.auth.oidc.provider import IdentityProvider
from bff.errors import Code, Problem
from bff.settings import Settings
from bff.testing import until
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import SecretStr

from tests.engine.auth.test_jwks import Signer

ISSUER = "https://id.example"
REQUIRED = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize?tenant=7",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}
OPTIONAL = {
    "userinfo_endpoint": f"{ISSUER}/userinfo",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "end_session_endpoint": f"{ISSUER}/logout",
    "pushed_authorization_request_endpoint": f"{ISSUER}/par",
}
TOKENS = {"access_token": "a", "token_type": "Bearer"}
ANSWERS: dict[str, Any] = {
    "/token": TOKENS,
    "/userinfo": {"sub": "alice"},
    "/revoke": {},
    "/par": {"request_uri": "urn:request:1"},
}
FAILED = "request to the identity provider failed"
Answer = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


class Site:
    """The site of the provider: its metadata, and what it was asked."""

    def __init__(self, **metadata: Any) -> None:
        self.metadata = REQUIRED | metadata
        self.requests: list[httpx2.Request] = []
        self.answer: Answer = self.usual
        self.closed = 0
        """How many HTTP clients were closed."""

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/.well-known/openid-configuration":
            return httpx2.Response(200, json=self.metadata)
        self.requests.append(request)
        return await self.answer(request)

    @staticmethod
    async def usual(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=ANSWERS[request.url.path])

    def client(self, settings: Settings, **changes: Any) -> IdentityProvider:
        given = {
            "oidc_issuer": ISSUER,
            "oidc_client_id": "shop",
            "oidc_client_secret": SecretStr("se:cret"),
        }
        changed = settings.model_copy(update=given | changes)
        return IdentityProvider(changed, Transport(self))

    def form(self) -> dict[str, str]:
        """The form of the last request."""
        fields = parse_qs(self.requests[-1].content.decode(), keep_blank_values=True)
        assert all(len(values) == 1 for values in fields.values()), fields
        return {name: values[0] for name, values in fields.items()}


class Transport(httpx2.MockTransport):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._site = site

    async def aclose(self) -> None:
        self._site.closed += 1


def pem(private: Any) -> bytes:
    encoded: bytes = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return encoded


RSA_KEY = pem(rsa.generate_private_key(65537, 2048))
EC_KEY = pem(ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": f"{ISSUER}/"},
        {"issuer": None},
        {"authorization_endpoint": None},
        {"token_endpoint": "javascript:alert(1)"},
        {"jwks_uri": 7},
        {"userinfo_endpoint": ""},
        {"end_session_endpoint": None},
    ],
    ids=repr,
)
def test_metadata_of_another_issuer_or_without_an_endpoint_are_refused(
    changes: dict[str, Any],
) -> None:
    complete = ProviderMetadata.parse(orjson.dumps(REQUIRED | OPTIONAL), ISSUER)
    assert complete.userinfo_endpoint == f"{ISSUER}/userinfo"
    with pytest.raises(ValueError, match="metadata"):
        ProviderMetadata.parse(orjson.dumps(REQUIRED | OPTIONAL | changes), ISSUER)
    with pytest.raises(ValueError, match="OIDC_ISSUER"):
        ProviderMetadata.parse(b"[]", ISSUER)


async def test_a_provider_without_optional_endpoints_is_asked_for_nothing_there(
    settings: Settings,
) -> None:
    site = Site()
    client = site.client(settings)
    metadata = await client.metadata()
    assert metadata.authorization_response_iss_parameter_supported is False
    assert await client.userinfo("a") == {}
    await client.revoke("r", "refresh_token")
    assert await client.end_session_url("i", "https://app.example/") is None
    url = await client.authorization_url({"state": "s", "redirect_uri": "https://app.example/a?b"})
    assert site.requests == []
    assert url.startswith(f"{ISSUER}/authorize?tenant=7&client_id=shop&")
    assert parse_qs(urlsplit(url).query)["redirect_uri"] == ["https://app.example/a?b"]
    await client.close()
    site.metadata["issuer"] = "https://evil.example"
    deceived = site.client(settings)
    with pytest.raises(Problem):
        await deceived.metadata()
    assert "the issuer in the metadata is not OIDC_ISSUER" in deceived.error
    await deceived.close()
    assert site.closed == 4, "the HTTP clients of both"


async def test_what_the_optional_endpoints_are_asked(settings: Settings) -> None:
    site = Site(**OPTIONAL, authorization_response_iss_parameter_supported=True)
    client = site.client(settings)
    assert (await client.metadata()).authorization_response_iss_parameter_supported is True
    assert await client.userinfo("access") == {"sub": "alice"}
    assert site.requests[-1].headers["authorization"] == "Bearer access"
    await client.revoke("r", "refresh_token")
    assert site.form() == {"token": "r", "token_type_hint": "refresh_token"}
    url = await client.authorization_url({"state": "secret-state"})
    assert site.form() == {"client_id": "shop", "state": "secret-state"}
    query = parse_qs(urlsplit(url).query)
    assert query == {"tenant": ["7"], "client_id": ["shop"], "request_uri": ["urn:request:1"]}
    end = await client.end_session_url("id-token", "https://app.example/")
    assert end is not None
    assert end.partition("?")[0] == f"{ISSUER}/logout"
    assert parse_qs(urlsplit(end).query) == {
        "client_id": ["shop"],
        "id_token_hint": ["id-token"],
        "post_logout_redirect_uri": ["https://app.example/"],
    }
    await client.close()


@pytest.mark.parametrize(
    ("supported", "key", "method"),
    [
        (None, None, "basic"),
        (["client_secret_basic", "client_secret_post"], None, "basic"),
        (["client_secret_post", "private_key_jwt"], None, "post"),
        (["private_key_jwt"], None, "basic"),
        (["client_secret_basic"], RSA_KEY, "RS256"),
        (["client_secret_basic"], EC_KEY, "ES256"),
    ],
    ids=["not said", "both", "post", "neither", "RSA", "EC"],
)
async def test_the_client_authenticates_by_what_the_provider_supports(
    settings: Settings, tmp_path: Path, supported: list[str] | None, key: bytes | None, method: str
) -> None:
    said = {} if supported is None else {"token_endpoint_auth_methods_supported": supported}
    site, changes = Site(**OPTIONAL, **said), dict[str, Any]()
    if key is not None:
        file = tmp_path / "key.pem"
        file.write_bytes(key)
        changes = {"oidc_private_key_file": file, "oidc_client_secret": None}
    client = site.client(settings, **changes)
    for ask, sent in (
        (client.redeem("c", "v", "https://app.example/cb"), "code"),
        (client.refresh("r"), "refresh_token"),
        (client.revoke("r", "refresh_token"), "token"),
        (client.authorization_url({"state": "s"}), "state"),
    ):
        await ask
        form, header = site.form(), site.requests[-1].headers.get("authorization")
        assert sent in form
        assert site.requests[-1].headers["accept"] == "application/json"
        if method == "basic":
            assert header == f"Basic {base64.b64encode(b'shop:se%3Acret').decode()}"
            assert "client_secret" not in form
        elif method == "post":
            assert header is None
            assert (form["client_id"], form["client_secret"]) == ("shop", "se:cret")
        else:
            assert header is None
            assert "client_secret" not in form
            assertion = form["client_assertion"].partition(".")[0]
            assert orjson.loads(base64.urlsafe_b64decode(assertion + "=="))["alg"] == method
    await client.close()


@pytest.mark.parametrize(
    "content",
    [b"no key", pem(ec.generate_private_key(ec.SECP384R1()))],
    ids=["no key", "another curve"],
)
def test_a_key_that_cannot_be_used_is_refused_at_the_start(
    settings: Settings, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="OIDC_PRIVATE_KEY_FILE"):
        Site().client(settings, oidc_private_key_file=file)


async def hang(_: httpx2.Request) -> httpx2.Response:
    await asyncio.Event().wait()
    raise AssertionError


def answers(status: int, **content: Any) -> Answer:
    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, **content)

    return answer


def fails(error: type[httpx2.TransportError]) -> Answer:
    async def answer(_: httpx2.Request) -> httpx2.Response:
        raise error("no")

    return answer


FAULTS: dict[str, tuple[Answer, type[Exception], list[str]]] = {
    "refused": (answers(400, json={"error": "invalid_grant"}), GrantRefused, []),
    "another error": (answers(400, json={"error": "bad_client"}), Problem, ["bad_client"]),
    "no connection": (fails(httpx2.ConnectError), Problem, ["ConnectError"]),
    "no connection in time": (fails(httpx2.ConnectTimeout), Problem, ["ConnectTimeout"]),
    "all connections in use": (fails(httpx2.PoolTimeout), Problem, ["PoolTimeout"]),
    "no answer in time": (fails(httpx2.ReadTimeout), AnswerLost, ["ReadTimeout"]),
    "no answer at all": (hang, AnswerLost, ["TimeoutError"]),
    "an answer cut off": (fails(httpx2.ReadError), AnswerLost, ["ReadError"]),
    "a server error": (answers(500), AnswerLost, ["HTTP 500"]),
    "no JSON": (answers(200, text="<html>"), AnswerLost, ["ValueError"]),
}


@pytest.mark.parametrize(("answer", "meaning", "logged"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_says_whether_the_grant_may_be_used_up(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
    meaning: type[Exception],
    logged: list[str],
) -> None:
    """A code is asked for only once, so a lost answer is as an unavailable provider."""
    monkeypatch.setattr(provider, "_SECONDS", 0.05)
    site = Site(**OPTIONAL)
    site.answer = answer
    client = site.client(settings)
    with pytest.raises(meaning):
        await client.refresh("r")
    failures = [vars(one) for one in caplog.records if one.message == FAILED]
    assert [one["reason"] for one in failures] == logged
    with pytest.raises(Problem if meaning is AnswerLost else meaning) as caught:
        await client.redeem("c", "v", "https://app.example/cb")
    asked: list[Awaitable[Any]] = [client.userinfo("a"), client.authorization_url({"state": "s"})]
    if logged != ["ValueError"]:  # this answer needs no content
        asked.append(client.revoke("r", "refresh_token"))
    for ask in asked:
        with pytest.raises(Problem) as other:
            await ask
        assert other.value.code is Code.SERVICE_UNAVAILABLE
    if isinstance(caught.value, Problem):
        assert caught.value.code is Code.SERVICE_UNAVAILABLE
    await client.close()


async def test_the_keys_are_those_of_the_address_that_the_metadata_names(
    settings: Settings,
) -> None:
    site, signers = Site(), [Signer("first", "ES256"), Signer("second", "ES256")]
    by_path = dict(zip(("/keys", "/moved"), signers, strict=True))

    async def keys(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"keys": [by_path[request.url.path].entry()]})

    site.answer = keys
    client = site.client(settings)
    client._metadata._max_age, client._metadata._min_interval = -1, 0  # always too old
    first, second = signers
    for _ in range(2):
        assert (await client.claims(first.sign()))["sub"] == "alice"
    assert len(site.requests) == 1
    site.metadata["jwks_uri"] = f"{ISSUER}/moved"
    assert (await client.claims(second.sign()))["sub"] == "alice"
    with pytest.raises(Problem):
        await client.claims(first.sign())
    site.metadata["jwks_uri"], site.answer = f"{ISSUER}/silent", hang
    asking = asyncio.create_task(client.claims(first.sign()))
    await until(lambda: site.requests[-1].url.path == "/silent")
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await asking

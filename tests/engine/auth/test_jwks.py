"""Keys of an identity provider that rotates them, is slow, or does not answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx2
import pytest
from bff.auth import remote_document
from bff.auth.remote_document import RemoteDocument
from bff.auth.tokens import TokenVerifier
from bff.errors import Code, Problem
from bff.settings import Settings
from bff.testing import until
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt
from pydantic import SecretStr

from tests.engine.auth.test_tokens import forge, good_claims

CURVES: dict[str, type[Any]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}


class Signer:
    """A key pair of the provider."""

    def __init__(self, kid: str | None, algorithm: str = "RS256", bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        private: Any
        if algorithm.startswith("RS"):
            private = rsa.generate_private_key(65537, bits)
        else:
            private = ec.generate_private_key(CURVES[algorithm]())
        self.private = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        self.public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def entry(self, **changes: Any) -> dict[str, Any]:
        """The public key as the provider publishes it."""
        entry = jwk.construct(self.public, self.algorithm).to_dict() | {"use": "sig"}
        named = entry if self.kid is None else entry | {"kid": self.kid}
        return {name: value for name, value in (named | changes).items() if value is not None}

    def sign(self, **claims: Any) -> str:
        headers = {} if self.kid is None else {"kid": self.kid}
        complete = {"sub": "alice", "exp": int(time.time()) + 600} | claims
        return jwt.encode(complete, self.private, self.algorithm, headers=headers)


class Provider:
    """Answers with a JWK set, or with `status` and `body`."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.entries: list[dict[str, Any]] = list(entries)
        self.fetches = 0
        self.status = 200
        self.body: bytes | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.fetches += 1
        await self.open.wait()
        body = self.body or json.dumps({"keys": self.entries}).encode()
        return httpx2.Response(self.status, content=body, headers={"location": "http://evil/"})

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self))


def make_verifier(
    settings: Settings, provider: Provider, *algorithms: str, **intervals: float
) -> TokenVerifier:
    changes: dict[str, Any] = {
        "jwt_secret": None,
        "jwks_url": "https://id.example/keys",
        "jwt_algorithms": algorithms or ("RS256",),
    }
    verifier = TokenVerifier(settings.model_copy(update=changes), provider.client())
    assert verifier.tokens._jwks is not None
    for name, value in intervals.items():
        setattr(verifier.tokens._jwks, f"_{name}", value)
    return verifier


@pytest.fixture(scope="module")
def first() -> Signer:
    return Signer("first")


@pytest.fixture(scope="module")
def second() -> Signer:
    return Signer("second")


async def assert_unauthenticated(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(Problem) as caught:
        await verifier.verify(token)
    assert caught.value.code is Code.UNAUTHENTICATED


async def test_a_token_signed_by_the_provider_is_accepted(
    settings: Settings, first: Signer
) -> None:
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider, min_interval=0)
    for _ in range(3):
        assert (await verifier.verify(first.sign())).user_id == "alice"
    assert provider.fetches == 1


async def test_a_token_signed_with_an_elliptic_curve_is_accepted(settings: Settings) -> None:
    signer = Signer("ec", "ES256")
    verifier = make_verifier(settings, Provider(signer.entry()), "ES256", "RS256")
    assert (await verifier.verify(signer.sign())).user_id == "alice"


async def test_a_token_without_key_id_is_checked_with_every_key(
    settings: Settings, first: Signer, second: Signer
) -> None:
    second_without = Signer(None)
    provider = Provider(first.entry(), second.entry(), second_without.entry())
    assert (await make_verifier(settings, provider).verify(second_without.sign())).user_id


async def test_only_keys_of_the_tokens_key_id_are_used(
    settings: Settings, first: Signer, second: Signer
) -> None:
    provider = Provider(first.entry(), second.entry(kid="another-first"))
    verifier = make_verifier(settings, provider)
    await assert_unauthenticated(verifier, second.sign())


async def test_the_public_key_is_not_accepted_as_a_secret(
    settings: Settings, first: Signer
) -> None:
    verifier = make_verifier(settings, Provider(first.entry()))
    for algorithm in ("HS256", "RS256", "none"):
        header = {"alg": algorithm, "kid": "first"}
        await assert_unauthenticated(verifier, forge(header, good_claims(), first.public))


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"n": None},
        {"n": 7},
        {"n": "AQAB"},
        {"kid": ["first"]},
        {"key_ops": 7},
        {"kty": "EC", "crv": ["P-256"]},
    ],
    ids=repr,
)
async def test_unsuitable_keys_are_ignored(
    settings: Settings, first: Signer, second: Signer, changes: dict[str, Any]
) -> None:
    no_keys: list[Any] = [7, None, [], "key"]
    provider = Provider(*no_keys, first.entry(**changes), second.entry())
    verifier = make_verifier(settings, provider)
    await assert_unauthenticated(verifier, first.sign())
    assert (await verifier.verify(second.sign())).user_id == "alice"


async def test_only_keys_that_can_verify_tokens_are_counted(
    settings: Settings, first: Signer, second: Signer
) -> None:
    """`bff doctor` and `/health/ready` say so when there are none."""
    curve = Signer("curve", "ES256").entry()
    provider = Provider(first.entry(alg=None), second.entry(), curve)
    assert await make_verifier(settings, provider).tokens.usable_keys() == 2
    unusable = make_verifier(settings, Provider(curve))
    with pytest.raises(LookupError, match="no usable key"):
        await unusable.tokens.usable_keys()
    rotated = {"jwt_secret": SecretStr("n" * 40), "jwt_previous_secret": settings.jwt_secret}
    for changes, count in (({}, 1), (rotated, 2), ({"jwt_secret": None}, 0)):
        own = TokenVerifier(settings.model_copy(update=changes))
        assert await own.tokens.usable_keys() == count


async def test_a_short_rsa_key_is_ignored(settings: Settings, first: Signer) -> None:
    short = Signer("short", bits=1024)
    verifier = make_verifier(settings, Provider(short.entry(), first.entry()))
    await assert_unauthenticated(verifier, short.sign())


async def test_an_unknown_key_id_fetches_the_keys_again(
    settings: Settings, first: Signer, second: Signer
) -> None:
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider, min_interval=0)
    await verifier.verify(first.sign())
    provider.entries = [second.entry()]
    assert (await verifier.verify(second.sign())).user_id == "alice"
    assert provider.fetches == 2
    await assert_unauthenticated(verifier, first.sign())


async def test_made_up_key_ids_do_not_load_the_provider(settings: Settings, first: Signer) -> None:
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider)
    await verifier.verify(first.sign())
    for number in range(20):
        header = {"alg": "RS256", "kid": f"invented-{number}"}
        await assert_unauthenticated(verifier, forge(header, good_claims()))
    assert provider.fetches == 1


async def test_old_keys_are_fetched_again(
    settings: Settings, first: Signer, second: Signer
) -> None:
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider, max_age=0, min_interval=0)
    await verifier.verify(first.sign())
    provider.entries = [second.entry()]
    await assert_unauthenticated(verifier, first.sign())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (302, None),
        (200, b"<html>"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [7, null, {"kty": "RSA"}]}'),
    ],
)
async def test_a_failed_fetch_keeps_the_last_keys(
    settings: Settings, first: Signer, status: int, body: bytes | None
) -> None:
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider, max_age=0, min_interval=0, retry_interval=0)
    await verifier.verify(first.sign())
    provider.status, provider.body = status, body
    assert (await verifier.verify(first.sign())).user_id == "alice"
    assert provider.fetches == 2


async def test_a_document_that_is_too_large_is_refused(
    settings: Settings, first: Signer, second: Signer
) -> None:
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider, max_age=0, min_interval=0)
    await verifier.verify(first.sign())
    document = json.dumps({"keys": [second.entry()]}).encode()
    provider.body = document.ljust(1024 * 1024 + 1)
    assert (await verifier.verify(first.sign())).user_id == "alice"
    assert provider.fetches == 2
    provider.body = document.ljust(1024 * 1024)
    largest = make_verifier(settings, provider)
    assert (await largest.verify(second.sign())).user_id == "alice"


async def test_without_any_keys_signing_in_is_unavailable(
    settings: Settings, first: Signer
) -> None:
    provider = Provider(first.entry())
    provider.status = 503
    verifier = make_verifier(settings, provider, retry_interval=0)
    with pytest.raises(Problem) as caught:
        await verifier.verify(first.sign())
    assert caught.value.code is Code.SERVICE_UNAVAILABLE
    assert caught.value.retryable
    provider.status = 200
    assert (await verifier.verify(first.sign())).user_id == "alice"


async def test_a_fetch_has_a_timeout(
    settings: Settings, first: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_document, "_FETCH_SECONDS", 0.05)
    provider = Provider(first.entry())
    provider.open.clear()
    verifier = make_verifier(settings, provider, retry_interval=0)
    keys = verifier.tokens._jwks
    assert keys is not None
    assert keys.error == "not fetched yet"
    async with asyncio.timeout(15):
        with pytest.raises(Problem):
            await verifier.verify(first.sign())
        assert keys.error == "TimeoutError: no answer"
        provider.open.set()
        provider.body = b"[]"
        with pytest.raises(Problem):
            await verifier.verify(first.sign())
        assert keys.error.startswith("TypeError: list indices")
        provider.body = None
        await verifier.verify(first.sign())
        assert keys.error == ""


async def test_a_silent_provider_delays_tokens_only_briefly_while_keys_are_cached(
    settings: Settings, first: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_document, "_FETCH_SECONDS", 3600)
    monkeypatch.setattr(remote_document, "_REFRESH_SECONDS", 0.05)
    provider = Provider(first.entry())
    verifier = make_verifier(settings, provider, max_age=0, min_interval=0)
    await verifier.verify(first.sign())
    provider.open.clear()
    async with asyncio.timeout(15):
        for _ in range(3):
            assert (await verifier.verify(first.sign())).user_id == "alice"


async def test_concurrent_tokens_share_one_fetch(
    settings: Settings, first: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one may take its time."""
    monkeypatch.setattr(remote_document, "_REFRESH_SECONDS", 0)
    provider, token = Provider(first.entry()), first.sign()
    provider.open.clear()
    verifier = make_verifier(settings, provider)
    waiting = [asyncio.create_task(verifier.verify(token)) for _ in range(50)]
    await until(lambda: provider.fetches == 1)
    waiting[0].cancel()
    await asyncio.sleep(0)
    provider.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert not any(isinstance(result, BaseException) for result in results[1:])
    assert provider.fetches == 1


async def test_closing_cancels_a_running_fetch() -> None:
    provider = Provider()
    provider.open.clear()
    keys = RemoteDocument("https://id.example", bytes, provider.client())
    waiting = asyncio.create_task(keys.current())
    await until(lambda: provider.fetches == 1)
    await keys.close()
    async with asyncio.timeout(15):
        assert isinstance(
            (await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError
        )


async def test_closing_closes_the_http_client(settings: Settings, first: Signer) -> None:
    http = Provider(first.entry()).client()
    changes: dict[str, Any] = {
        "jwt_secret": None,
        "jwks_url": "https://id.example/keys",
        "jwt_algorithms": ("RS256",),
    }
    verifier = TokenVerifier(settings.model_copy(update=changes), http)
    await verifier.tokens.close()
    assert http.is_closed
    await TokenVerifier(settings).tokens.close()

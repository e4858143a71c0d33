"""Encrypted calls: only the service can read the call, and only its caller the reply."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh import describe, encryption
from bff.mesh.client import MeshClient
from bff.mesh.encryption import EncryptionError, PrivateKey, PublicKey
from bff.mesh.messages import Delivery, MalformedMessage
from bff.mesh.service import Service
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine

VECTOR = json.loads((Path(__file__).parent / "captures.json").read_text())["encryption"]


def new_pem() -> str:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture(scope="module")
def pem() -> str:
    return new_pem()


def test_messages_of_the_library_are_decrypted() -> None:
    key = VECTOR["symmetric_key"].encode()
    service = PrivateKey(VECTOR["service_private_key_pem"])
    decrypted = service.decrypt(VECTOR["request_wire_body"].encode())
    assert decrypted == (VECTOR["request_plaintext"].encode(), key)
    reply = encryption.decrypt(VECTOR["response_wire_body"].encode(), key)
    assert reply == VECTOR["response_plaintext"].encode()


def test_encrypted_messages_have_the_librarys_layout() -> None:
    key = VECTOR["symmetric_key"].encode()
    made = PublicKey(VECTOR["service_public_key_pem"]).encrypt(b"{}", key)
    assert made.index(b".") == VECTOR["request_wire_body"].index(".")
    assert PrivateKey(VECTOR["service_private_key_pem"]).decrypt(made) == (b"{}", key)


@pytest.mark.parametrize("body", [b"", b".", b"x.y", b"AAAA.AAAA", b"\xff"])
def test_other_bodies_raise_an_encryption_error(pem: str, body: bytes) -> None:
    with pytest.raises(EncryptionError):
        PrivateKey(pem).decrypt(body)
    with pytest.raises(EncryptionError):
        encryption.decrypt(body, encryption.new_key())


UNUSABLE = {
    "too small": (1 << 511) + 1,
    "too large": (1 << 20_000) + 1,
    "even": 1 << 2047,
}


def unusable_pem(modulus: int) -> str:
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


@pytest.mark.parametrize("modulus", UNUSABLE.values(), ids=UNUSABLE)
def test_a_public_key_that_cannot_encrypt_is_refused(modulus: int) -> None:
    with pytest.raises(EncryptionError):
        PublicKey(unusable_pem(modulus))


@pytest.mark.parametrize("modulus", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_call_of_a_service_whose_key_cannot_encrypt_is_refused(
    mesh: MeshClient, engine: Engine, modulus: int
) -> None:
    service = Service(f"service-{secrets.token_hex(4)}")
    service._description = lambda: {"public_key": unusable_pem(modulus)}  # type: ignore[method-assign]
    await engine.serve(service)
    with pytest.raises(Problem) as caught:
        await mesh.request(service.name, "m", {}, encrypted=True)
    assert (caught.value.code, caught.value.outcome) == (Code.SERVICE_ERROR, Outcome.NOT_SENT)


async def test_encrypted_calls_are_limited_too(start_client: StartClient, engine: Engine) -> None:
    """Also while they wait for the public key."""
    mesh = await start_client(max_pending_requests=1)
    silent = Service(f"silent-{secrets.token_hex(4)}")

    async def hang(delivery: Delivery) -> None:
        await asyncio.sleep(3600)

    silent.answer = hang  # type: ignore[method-assign]
    await engine.serve(silent)
    calls = (
        mesh.request(silent.name, "m", {}, context={}, encrypted=True, timeout=1) for _ in range(5)
    )
    ended = await asyncio.gather(*calls, return_exceptions=True)
    codes = Counter(one.code for one in ended if isinstance(one, Problem))
    assert codes[Code.TOO_MANY_IN_FLIGHT] >= 3


@pytest.mark.parametrize("pem", ["", "no key", VECTOR["service_public_key_pem"]])
def test_a_malformed_private_key_is_refused(pem: str) -> None:
    with pytest.raises(EncryptionError):
        PrivateKey(pem)


async def vault(engine: Engine, pem: str) -> tuple[Service, list[Delivery]]:
    """A service with a method that requires encryption, and the calls that it received."""
    service = Service(f"vault-{secrets.token_hex(4)}", private_key=pem)
    arrived: list[Delivery] = []
    answer = service.answer

    async def note(delivery: Delivery) -> Any:
        arrived.append(delivery)
        return await answer(delivery)

    service.answer = note  # type: ignore[method-assign]

    @service.method("open", encrypted=True)
    async def open_vault(code: str) -> dict[str, str]:
        if code != "4711":
            raise Problem(Code.FORBIDDEN, "Wrong code")
        return {"holds": "gold"}

    @service.method("size")
    async def size() -> int:
        return 3

    await engine.serve(service)
    return service, arrived


async def test_an_encrypted_call_is_answered(mesh: MeshClient, engine: Engine, pem: str) -> None:
    service, arrived = await vault(engine, pem)
    params = {"code": "4711"}
    answer = await mesh.request(service.name, "open", params, context={}, encrypted=True)
    assert answer == {"holds": "gold"}
    assert b"4711" not in arrived[-1].body
    assert await mesh.request(service.name, "size", {}, context={}, encrypted=True) == 3
    assert len(arrived) == 3, "the description is requested once"


@pytest.mark.parametrize(("code", "word"), [("4711", b"gold"), ("1", b"Wrong code")])
async def test_the_reply_to_an_encrypted_call_is_encrypted_with_its_key(
    pem: str, code: str, word: bytes
) -> None:
    """Errors too: they may repeat what was asked."""
    service = Service("vault", private_key=pem)

    @service.method("open")
    async def open_vault(code: str) -> str:
        if code != "4711":
            raise Problem(Code.FORBIDDEN, "Wrong code")
        return "gold"

    call = json.dumps({"method": "open", "params": {"code": code}}).encode()
    key = encryption.new_key()
    sealed = PublicKey(PrivateKey(pem).public_pem).encrypt(call, key)
    for body, is_secret in ((sealed, True), (call, False)):
        delivery = Delivery("vault", body, "c1", kind="request", reply_to="r")
        reply = await service.answer(delivery)
        assert reply is not None
        assert encryption.is_encrypted(reply.body) is is_secret
        assert (word in reply.body) is not is_secret
        if is_secret:
            assert word in encryption.decrypt(reply.body, key)


async def test_an_error_in_an_encrypted_reply_reaches_the_caller(
    mesh: MeshClient, engine: Engine, pem: str
) -> None:
    service, _ = await vault(engine, pem)
    with pytest.raises(Problem) as caught:
        await mesh.request(service.name, "open", {"code": "1"}, context={}, encrypted=True)
    assert (caught.value.code, caught.value.description) == (Code.FORBIDDEN, "Wrong code")


async def test_a_method_that_requires_encryption_refuses_plain_calls(
    mesh: MeshClient, engine: Engine, pem: str
) -> None:
    service, _ = await vault(engine, pem)
    with pytest.raises(Problem) as caught:
        await mesh.request(service.name, "open", {"code": "4711"}, context={})
    assert caught.value.code is Code.INVALID_PARAMS
    description = await mesh.describe(service.name)
    assert description.methods["open"].encrypted
    assert not description.methods["size"].encrypted


async def test_an_encrypted_call_is_never_sent_unencrypted(mesh: MeshClient, service: str) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "note", {"text": "secret"}, context={}, encrypted=True)
    assert caught.value.outcome is Outcome.NOT_SENT
    assert await mesh.request(service, "notes_taken", {}, context={}) == []


async def test_an_encrypted_command_is_carried_out(
    mesh: MeshClient, engine: Engine, pem: str
) -> None:
    service, arrived = await vault(engine, pem)
    await mesh.command(service.name, "size", {}, context={}, encrypted=True)
    assert await mesh.request(service.name, "size", {}, context={}) == 3
    assert len(arrived) == 3


async def test_after_a_timeout_the_public_key_is_requested_again(
    start_client: StartClient, engine: Engine, pem: str
) -> None:
    mesh = await start_client()
    service, _ = await vault(engine, pem)
    await mesh.describe(service.name)
    service._key = PrivateKey(new_pem())
    with pytest.raises(Problem) as caught:
        await mesh.request(service.name, "size", {}, context={}, encrypted=True, timeout=0.5)
    assert caught.value.code is Code.TIMEOUT
    assert await mesh.request(service.name, "size", {}, context={}, encrypted=True) == 3


async def test_a_call_encrypted_for_another_service_is_malformed(pem: str) -> None:
    body = PrivateKey(new_pem()).encrypt(b"{}", encryption.new_key())
    for service in (Service("a", private_key=pem), Service("a")):
        with pytest.raises(MalformedMessage):
            await service.answer(Delivery("a", body, "c", kind="request", reply_to="r"))


def test_an_encrypted_method_needs_a_private_key() -> None:
    async def method() -> None: ...

    with pytest.raises(ValueError, match="private_key"):
        Service("a").method("m", encrypted=True)(method)


async def test_a_new_key_is_used_at_once(
    mesh: MeshClient, engine: Engine, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for its old key would disconnect a NuroPb service from the mesh."""
    monkeypatch.setattr(describe, "KEY_SECONDS", 0)
    service, arrived = await vault(engine, pem)
    for _ in range(3):
        service._key = PrivateKey(new_pem())
        assert await mesh.request(service.name, "size", {}, context={}, encrypted=True) == 3
    assert len(arrived) == 6


async def test_a_reply_proves_the_key_and_silence_does_not(
    start_client: StartClient, engine: Engine, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await start_client()
    service, arrived = await vault(engine, pem)
    now = 1000.0
    monkeypatch.setattr("bff.mesh.describe.time.monotonic", lambda: now)
    for seconds, calls in ((0.0, 2), (1.5, 3), (1.5, 4), (1.5, 5), (2.5, 7)):
        now += seconds
        await mesh.request(service.name, "size", {}, context={}, encrypted=True)
        assert len(arrived) == calls


async def test_neither_a_plain_call_nor_a_command_proves_the_key(
    start_client: StartClient, engine: Engine, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may have a new key since the last encrypted call that it answered."""
    mesh = await start_client()
    service, arrived = await vault(engine, pem)
    now = 1000.0
    monkeypatch.setattr("bff.mesh.describe.time.monotonic", lambda: now)
    described = 0
    for seconds, call, encrypted, asks in (
        (0.0, mesh.request, True, True),
        (1.5, mesh.request, True, False),
        (1.0, mesh.request, False, False),
        (0.5, mesh.command, True, False),
        (1.0, mesh.command, True, True),
    ):
        now += seconds
        await call(service.name, "size", {}, encrypted=encrypted)
        described += asks
        assert sum(b"nuropb_describe" in one.body for one in arrived) == described


async def test_encrypted_calls_are_no_longer_counted_when_they_have_ended(
    start_client: StartClient, engine: Engine, pem: str
) -> None:
    """Each asks for the key too, so there are two calls in flight."""
    mesh = await start_client(max_pending_requests=2)
    service, _ = await vault(engine, pem)
    for _ in range(4):
        assert await mesh.request(service.name, "size", {}, encrypted=True) == 3

"""Which tokens are accepted, and which are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.auth.tokens import MAX_TOKEN, TokenVerifier, issue
from bff.errors import Code, Problem
from bff.settings import Settings
from bff.testing.plugin import SECRET
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from tests.engine.auth.conftest import MakeToken


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Any, claims: Any, secret: str | bytes = SECRET) -> str:
    """A token with an arbitrary header, signed with HMAC-SHA256."""
    signed = f"{segment(header)}.{segment(claims)}"
    key = secret if isinstance(secret, bytes) else secret.encode()
    signature = hmac.digest(key, signed.encode(), hashlib.sha256)
    return f"{signed}.{segment(signature)}"


def good_claims() -> dict[str, Any]:
    return {"sub": "alice", "exp": int(time.time()) + 600}


async def assert_refused(settings: Settings, token: str, **changes: Any) -> None:
    with pytest.raises(Problem) as caught:
        await TokenVerifier(settings.model_copy(update=changes)).verify(token)
    assert caught.value.code is Code.UNAUTHENTICATED
    assert caught.value.description in ("Sign in first", "The token has expired")


async def test_a_valid_token_identifies_the_caller(
    settings: Settings, make_token: MakeToken
) -> None:
    now = int(time.time())
    token = make_token(
        preferred_username="Alice A.",
        sid="s-1",
        jti="t-1",
        iat=now - 5,
        scope="orders admin",
        iss="any",
    )
    caller = await TokenVerifier(settings).verify(token)
    assert caller.user_id == "alice"
    assert caller.username == "Alice A."
    assert caller.scopes == {"orders", "admin"}
    assert (caller.session_id, caller.token_id) == ("s-1", "t-1")
    assert caller.issued_at == now - 5
    assert caller.expires_at > time.time()
    assert token not in repr(caller)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_an_issued_token_is_accepted(settings: Settings, algorithm: str) -> None:
    changes = {"jwt_algorithms": (algorithm,), "jwt_issuer": "https://id", "jwt_audience": "bff"}
    settings = settings.model_copy(update=changes)
    token = issue(settings, "bob", ["admin", "orders"], 60, username="Bob", session_id="s-2")
    caller = await TokenVerifier(settings).verify(token)
    assert (caller.user_id, caller.username, caller.session_id) == ("bob", "Bob", "s-2")
    assert caller.scopes == {"admin", "orders"}


async def test_no_token_is_issued_without_a_secret(settings: Settings) -> None:
    with pytest.raises(ValueError, match="JWT_SECRET"):
        issue(settings.model_copy(update={"jwt_secret": None}), "bob")


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scope": None, "scopes": ["a", "b"]}, {"a", "b"}),
        ({"scope": None, "scp": ["a", 7]}, {"a"}),
        ({"scope": None, "scp": ["a", "b admin", "c\x00", ""]}, {"a"}),
        ({"scope": "a b\x00"}, {"a"}),
        ({"scope": None, "scp": "a b"}, {"a", "b"}),
        ({"scope": {"admin": True}}, set()),
        ({"scope": None}, set()),
    ],
)
async def test_scopes_are_read_from_the_claims_of_common_providers(
    settings: Settings, make_token: MakeToken, claims: dict[str, Any], expected: set[str]
) -> None:
    assert (await TokenVerifier(settings).verify(make_token(**claims))).scopes == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"preferred_username": "p", "username": "u", "name": "n"}, "p"),
        ({"username": "u", "name": "n"}, "u"),
        ({"preferred_username": "", "name": "n"}, "n"),
        ({"preferred_username": "bad\nname"}, "alice"),
        ({}, "alice"),
    ],
)
async def test_the_username_comes_from_the_first_usable_claim(
    settings: Settings, make_token: MakeToken, claims: dict[str, Any], expected: str
) -> None:
    assert (await TokenVerifier(settings).verify(make_token(**claims))).username == expected


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": 1},
        {"exp": "never"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": [9999999999]},
        {"exp": {}},
        {"nbf": 9_999_999_999},
        {"nbf": "soon"},
        {"nbf": True},
        {"nbf": []},
        {"iat": {}},
        {"iat": "1700000000"},
        {"nbf": -1},
        {"aud": [None]},
        {"aud": []},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "a\x00"},
        {"sub": "a\x85b"},
        {"sub": "\ud800"},
        {"sub": "x" * 129},
        {"aud": "another-audience"},
    ],
    ids=repr,
)
async def test_invalid_claims_are_refused(
    settings: Settings, make_token: MakeToken, claims: dict[str, Any]
) -> None:
    await assert_refused(settings, make_token(**claims))


def test_claims_without_a_user_or_an_end_identify_nobody_and_other_ids_may_be_missing() -> None:
    for claims in ({"sub": "alice"}, {"exp": 2_000_000_000}, {"sub": "alice", "exp": "never"}):
        with pytest.raises(Problem) as caught:
            Caller.from_claims(claims)
        assert caught.value.code is Code.UNAUTHENTICATED
    for ids in ({}, {"sid": 7, "jti": "a\nb"}):
        caller = Caller.from_claims({"sub": "alice", "exp": 2_000_000_000} | ids)
        assert (caller.session_id, caller.token_id) == ("", "")


async def test_only_an_expired_token_is_said_to_have_expired(
    settings: Settings, make_token: MakeToken
) -> None:
    verifier = TokenVerifier(settings)
    for claims, description in (
        ({"exp": 1}, "The token has expired"),
        ({"nbf": 9_999_999_999}, "Sign in first"),
        ({"aud": "another-audience"}, "Sign in first"),
    ):
        with pytest.raises(Problem) as caught:
            await verifier.verify(make_token(**claims))
        assert caught.value.description == description


async def test_times_of_1970_are_accepted(settings: Settings, make_token: MakeToken) -> None:
    await TokenVerifier(settings).verify(make_token(nbf=0))
    settings = settings.model_copy(update={"max_token_seconds": 2**40})
    await TokenVerifier(settings).verify(make_token(nbf=0, iat=0))


async def test_a_token_that_lives_longer_than_a_revocation_is_refused(
    settings: Settings, make_token: MakeToken
) -> None:
    now, longest = int(time.time()), settings.max_token_seconds
    longest += int(settings.jwt_leeway_seconds)
    await TokenVerifier(settings).verify(make_token(iat=now - 100, exp=now - 100 + longest))
    await assert_refused(settings, make_token(iat=now - 100, exp=now - 99 + longest))
    await assert_refused(settings, make_token(iat=None, exp=now + 60 + longest))


async def test_tokens_of_the_previous_secret_are_accepted_while_it_is_set(
    settings: Settings, make_token: MakeToken
) -> None:
    rotated = settings.model_copy(
        update={"jwt_secret": SecretStr("n" * 40), "jwt_previous_secret": settings.jwt_secret}
    )
    await TokenVerifier(rotated).verify(make_token())
    await TokenVerifier(rotated).verify(issue(rotated, "alice"))
    await assert_refused(settings, issue(rotated, "alice"))  # the new secret signs
    await assert_refused(rotated, make_token(key="o" * 40))
    await assert_refused(rotated.model_copy(update={"jwt_previous_secret": None}), make_token())


async def test_clocks_may_differ_by_the_leeway(settings: Settings, make_token: MakeToken) -> None:
    now = int(time.time())
    settings = settings.model_copy(update={"jwt_leeway_seconds": 30})
    await TokenVerifier(settings).verify(make_token(exp=now - 10, nbf=now + 10))
    await assert_refused(settings, make_token(exp=now - 60))
    await assert_refused(settings, make_token(nbf=now + 60))


@pytest.mark.parametrize("issuer", ["https://evil", "https://id/", "HTTPS://ID", "", None])
async def test_another_issuer_is_refused(
    settings: Settings, make_token: MakeToken, issuer: str | None
) -> None:
    await assert_refused(settings, make_token(iss=issuer), jwt_issuer="https://id")


@pytest.mark.parametrize("audience", ["other", ["a", "b"], "bff2", [7], None])
async def test_another_audience_is_refused(
    settings: Settings, make_token: MakeToken, audience: Any
) -> None:
    await assert_refused(settings, make_token(aud=audience), jwt_audience="bff")


async def test_one_of_several_audiences_is_enough(
    settings: Settings, make_token: MakeToken
) -> None:
    settings = settings.model_copy(update={"jwt_audience": "bff"})
    await TokenVerifier(settings).verify(make_token(aud=["other", "bff"]))


async def test_another_secret_is_refused(settings: Settings, make_token: MakeToken) -> None:
    await assert_refused(settings, make_token(key="x" * 40))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
async def test_algorithm_none_is_refused(settings: Settings, name: str) -> None:
    unsigned = f"{segment({'alg': name})}.{segment(good_claims())}"
    await assert_refused(settings, f"{unsigned}.")
    await assert_refused(settings, unsigned)
    await assert_refused(settings, f"{unsigned}.{segment(b'x')}")
    await assert_refused(settings, forge({"alg": name}, good_claims()))


async def test_an_algorithm_that_is_not_listed_is_refused(
    settings: Settings, make_token: MakeToken
) -> None:
    await assert_refused(settings, make_token("HS512"))


async def test_an_algorithm_is_accepted_only_with_its_own_hash(settings: Settings) -> None:
    """The header says HS512, the signature was made with SHA-256."""
    token = forge({"alg": "HS512"}, good_claims())
    await assert_refused(settings, token, jwt_algorithms=("HS256", "HS512"))


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": ["HS256"]},
        {"alg": {"a": 1}},
        {"alg": None},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "crit": ["exp"]},
        ["HS256"],
        "HS256",
        7,
        b"not json",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"alg":' * 2_000,
    ],
    ids=lambda header: repr(header)[:30],
)
async def test_malformed_headers_are_refused(settings: Settings, header: Any) -> None:
    await assert_refused(settings, forge(header, good_claims()))


@pytest.mark.parametrize("claims", [[], "alice", 7, b"not json", b"[" * 10_000, b"\xff"])
async def test_malformed_claims_are_refused(settings: Settings, claims: Any) -> None:
    await assert_refused(settings, forge({"alg": "HS256"}, claims))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d.e",
        "Basic YWxpY2U6c2VjcmV0",
        "ä.ö.ü",
        "\x00.\x00.\x00",
        "a" * 20_000,
        ".".join(["a" * 10_000] * 3),
    ],
    ids=lambda token: repr(token)[:20],
)
async def test_other_texts_are_refused(settings: Settings, token: str) -> None:
    await assert_refused(settings, token)


async def test_a_token_is_at_most_so_long(settings: Settings) -> None:
    """Two parts of a token have 4 characters for 3 bytes, so a third one makes up the length."""

    def of_length(length: int) -> str:
        for spaces in range(3):
            header = json.dumps({"alg": "HS256"}).encode() + b" " * spaces
            missing = length - len(forge(header, good_claims() | {"letters": ""}))
            for letters in range(missing * 3 // 4 - 2, missing * 3 // 4 + 3):
                token = forge(header, good_claims() | {"letters": "x" * letters})
                if len(token) == length:
                    return token
        raise AssertionError(length)

    verifier = TokenVerifier(settings)
    assert (await verifier.verify(of_length(MAX_TOKEN))).user_id == "alice"
    await assert_refused(settings, of_length(MAX_TOKEN + 1))


async def test_a_changed_token_is_refused(settings: Settings, make_token: MakeToken) -> None:
    verifier = TokenVerifier(settings)
    token = make_token()
    for index in range(0, len(token) - 1, 7):
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        with pytest.raises(Problem):
            await verifier.verify(changed)
    with pytest.raises(Problem):
        await verifier.verify(token + "=")
    with pytest.raises(Problem):
        await verifier.verify(token + "\n")


async def test_a_public_key_is_not_accepted_as_a_secret(settings: Settings) -> None:
    """Algorithm confusion: the provider's public key is used as an HMAC secret."""
    private = rsa.generate_private_key(65537, 2048)
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    changes = {"jwt_secret": None, "jwks_url": "http://id.invalid", "jwt_algorithms": ("RS256",)}
    verifier = TokenVerifier(settings.model_copy(update=changes))
    for algorithm in ("HS256", "none"):
        with pytest.raises(Problem) as caught:
            await verifier.verify(forge({"alg": algorithm}, good_claims(), pem))
        assert caught.value.code is Code.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["none", "PS256", "EdDSA", "HS1"])
def test_an_unsupported_algorithm_is_refused_at_startup(settings: Settings, name: str) -> None:
    with pytest.raises(ValueError, match="JWT_ALGORITHMS"):
        TokenVerifier(settings.model_copy(update={"jwt_algorithms": (name,)}))


async def test_refusals_are_logged_without_the_token(
    settings: Settings, make_token: MakeToken, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bff")
    token = make_token(aud="another-audience", sub="alice-in-the-log")
    await assert_refused(settings, token)
    (refusal,) = caplog.records
    assert refusal.message == "token refused"
    assert vars(refusal)["reason"] == "has an audience, but JWT_AUDIENCE is empty"
    logged = str(vars(refusal))
    assert "alice" not in logged
    for part in token.split("."):
        assert part not in logged


async def test_a_token_that_does_not_say_when_it_was_issued_counts_as_the_oldest(
    settings: Settings, make_token: MakeToken
) -> None:
    """So that every revocation of its user covers it."""
    caller = await TokenVerifier(settings).verify(make_token(iat=None))
    assert caller.issued_at == 0

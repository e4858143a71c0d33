"""The context of mesh calls and its token, which cannot be used to sign in."""

from __future__ import annotations

import time

import pytest
from bff.auth.caller import Caller
from bff.auth.mesh_context import mesh_context
from bff.auth.tokens import TokenVerifier, issue
from bff.errors import Code, Problem
from bff.settings import MESH_AUDIENCE, Settings
from bff.testing.plugin import SECRET
from jose import jwt
from pydantic import SecretStr


def caller(left: float = 600) -> Caller:
    scopes = frozenset({"b", "a"})
    return Caller("alice", "Alice", scopes, "sign-in", int(time.time() + left))


def test_the_context_identifies_the_caller_without_their_token(settings: Settings) -> None:
    context = mesh_context(caller(), settings, "connection-1")
    token = context.pop("Authorization")
    assert context == {"user_id": "alice", "username": "Alice", "session_id": "connection-1"}
    assert set(jwt.get_unverified_claims(token)) == {
        *("iss", "aud", "sub", "sid", "scope", "iat", "exp")
    }


def test_the_mesh_token_is_short_lived_and_only_for_the_mesh(settings: Settings) -> None:
    token = mesh_context(caller(), settings, "connection-1")["Authorization"]
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=MESH_AUDIENCE)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    lifetime = claims.pop("exp") - claims.pop("iat")
    assert lifetime == settings.mesh_token_seconds
    assert claims == {
        "iss": settings.app_name,
        "aud": "mesh",
        "sub": "alice",
        "sid": "connection-1",
        "scope": "a b",
    }


def test_the_mesh_token_expires_no_later_than_the_callers(settings: Settings) -> None:
    token = mesh_context(caller(left=5), settings)["Authorization"]
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=MESH_AUDIENCE)
    assert claims["exp"] <= time.time() + 5


async def test_the_mesh_token_cannot_be_used_to_sign_in(settings: Settings) -> None:
    token = mesh_context(caller(), settings)["Authorization"]
    for audience in (None, "browsers"):
        with pytest.raises(Problem) as caught:
            await TokenVerifier(settings.model_copy(update={"jwt_audience": audience})).verify(
                token
            )
        assert caught.value.code is Code.UNAUTHENTICATED
    assert (await TokenVerifier(settings).verify(issue(settings, "alice"))).user_id == "alice"


def test_key_names_prefix_and_secret_are_settings(settings: Settings) -> None:
    changed = settings.model_copy(
        update={
            "mesh_token_keys": ("Authorization", "Authorisation"),
            "mesh_token_prefix": "Bearer ",
            "mesh_token_secret": SecretStr("another"),
        }
    )
    context = mesh_context(caller(), changed)
    assert context["Authorization"] == context["Authorisation"]
    prefix, _, token = context["Authorization"].partition(" ")
    assert prefix == "Bearer"
    assert (
        jwt.decode(token, "another", algorithms=["HS256"], audience=MESH_AUDIENCE)["sub"] == "alice"
    )


def test_without_a_secret_there_is_no_token(settings: Settings) -> None:
    context = mesh_context(caller(), settings.model_copy(update={"jwt_secret": None}))
    assert set(context) == {"user_id", "username", "session_id"}

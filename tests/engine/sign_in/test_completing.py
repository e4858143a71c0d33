"""What of the provider's answer makes a session, and which sign-in of a browser it belongs to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from bff.auth.caller import Caller
from bff.auth.oidc.login_flow import FlowCookies, LoginFlow
from bff.auth.oidc.provider import MEMORY_ISSUER
from bff.auth.oidc.sign_in import Answer, SignInRefused, SignIns
from bff.auth.sessions import SessionStore, SignIn
from bff.development.identity_provider import EmbeddedIdentityProvider
from bff.errors import Code, Problem
from bff.redis.client import create_client
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from tests.engine.sign_in.test_lies import LIES, break_path, lie

CALLBACK = "https://app.example/auth/callback"


class Transport(httpx2.MockTransport):
    def __init__(self, idp: EmbeddedIdentityProvider, ended: list[str]) -> None:
        super().__init__(lambda request: idp._respond(request))
        self._ended = ended

    async def aclose(self) -> None:
        self._ended.append("connections")


class Completing:
    """Signs ann in at the embedded provider, without a server and a browser."""

    def __init__(self, settings: Settings, pipeline: AutoPipeline) -> None:
        self._settings = settings.model_copy(update={"oidc_issuer": "memory://"})
        self._pipeline = pipeline
        self.idp = EmbeddedIdentityProvider(self._settings)
        self.began = dict[str, list[str]]()
        """What the provider was told when the sign-in began."""
        self.ended = list[str]()
        """What a stop has ended, in order."""

    async def sign_in(
        self, answer: dict[str, Any] | None = None, scopes: str = "orders", **settings: Any
    ) -> SignIn:
        changed = self._settings.model_copy(update=settings)
        sessions = SessionStore(self._pipeline, changed)
        transport = Transport(self.idp, self.ended)
        sign_ins = SignIns(changed, self._pipeline, sessions, self._end, None, transport)
        flow = LoginFlow.begin("/", CALLBACK, None)
        self.began = parse_qs(urlsplit(await sign_ins.authorization_url(flow)).query)
        code = self.idp.code(
            "ann", scopes, nonce=flow.nonce, challenge=flow.challenge, redirect_uri=CALLBACK
        )
        good: dict[str, Any] = {"code": code, "error": None, "issuer": MEMORY_ISSUER}
        try:
            return await sign_ins.complete(
                flow, Answer(**good | (answer or {})), address="192.0.2.7", user_agent="test"
            )
        finally:
            self.ended.clear()
            sign_ins.access_tokens.stop = self._stop  # type: ignore[method-assign]
            await sign_ins.close()
            assert self.ended == ["refreshes", "connections", "connections"]

    async def _stop(self) -> None:
        self.ended.append("refreshes")

    async def _end(self, caller: Caller) -> None:
        raise AssertionError(caller)


@pytest.fixture
async def completing(settings: Settings) -> AsyncIterator[Completing]:
    redis = create_client(settings.redis_url)
    yield Completing(settings, AutoPipeline(redis))
    await redis.aclose()


async def refuse(completing: Completing, answer: dict[str, Any] | None = None) -> None:
    with pytest.raises((SignInRefused, Problem)) as caught:
        await completing.sign_in(answer)
    if isinstance(caught.value, Problem):
        assert caught.value.code is Code.UNAUTHENTICATED


async def test_only_a_right_answer_of_the_provider_makes_a_session(
    completing: Completing, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = await completing.sign_in()
    assert (good.user_id, good.username, set(good.scopes)) == ("ann", "ann", {"orders"})
    assert (good.address, good.user_agent) == ("192.0.2.7", "test")
    assert good.tokens.refresh_token is not None
    assert good.provider_sid
    random = [completing.began.pop(name) for name in ("state", "nonce", "code_challenge")]
    assert len({len(value) for (value,) in random}) == 1
    assert completing.began == {
        "client_id": ["bff"],
        "response_type": ["code"],
        "scope": ["openid profile"],
        "redirect_uri": [CALLBACK],
        "code_challenge_method": ["S256"],
    }
    for answer in ({"code": None}, {"code": "x"}, {"error": "access_denied"}):
        await refuse(completing, answer)
    for claims in LIES.values():
        with monkeypatch.context() as patch:
            lie(patch, completing.idp, **claims)
            await refuse(completing)
    with monkeypatch.context() as patch:
        patch.setattr(completing.idp, "sign", lambda _: "")
        with pytest.raises(SignInRefused, match="no ID token"):  # the audit log says why
            await completing.sign_in()
        patch.setattr(completing.idp, "_tokens", lambda _: {"id_token": "x"})
        await refuse(completing)
    with monkeypatch.context() as patch:
        lie(patch, completing.idp, sid="")
        assert (await completing.sign_in()).provider_sid is None
        break_path(patch, completing.idp, "/keys", "500")
        with pytest.raises(Problem) as away:
            await completing.sign_in()
    assert away.value.code is Code.SERVICE_UNAVAILABLE


@pytest.mark.parametrize("is_announced", [True, False])
async def test_the_answer_names_the_issuer_where_the_provider_says_so(
    completing: Completing, monkeypatch: pytest.MonkeyPatch, is_announced: bool
) -> None:
    """RFC 9207, section 2.4. A wrong one is refused in any case."""
    metadata = completing.idp._metadata() | {
        "authorization_response_iss_parameter_supported": is_announced
    }
    if not is_announced:
        del metadata["userinfo_endpoint"]  # it may have neither
    monkeypatch.setattr(completing.idp, "_metadata", lambda: metadata)
    assert (await completing.sign_in({"issuer": MEMORY_ISSUER})).user_id == "ann"
    await refuse(completing, {"issuer": "https://evil.example"})
    await refuse(completing, {"issuer": ""})
    if is_announced:
        await refuse(completing, {"issuer": None})
    else:
        assert (await completing.sign_in({"issuer": None})).user_id == "ann"


@pytest.mark.parametrize(
    ("path", "claims", "scopes"),
    [
        ("roles", {"roles": ["a", "b"]}, {"a", "b"}),
        ("realm.roles", {"realm": {"roles": ["a"]}}, {"a"}),
        ("https://x.example/roles", {"https://x.example/roles": "a b"}, {"a", "b"}),
        ("realm.roles", {"realm": ["roles"]}, set()),
        ("roles", {"roles": {"a": True}}, set()),
        ("roles", {}, set()),
    ],
)
async def test_the_scopes_are_where_the_settings_say(
    completing: Completing,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    claims: dict[str, Any],
    scopes: set[str],
) -> None:
    lie(monkeypatch, completing.idp, **claims, sid=lambda _: 7)
    signed_in = await completing.sign_in(scopes="admin", oidc_scopes_claim=path)
    assert signed_in.scopes == scopes
    assert signed_in.provider_sid is None, "a number is no id"


def request(cookies: Mapping[str, str]) -> Request:
    return with_cookie_header("; ".join(f"{name}={value}" for name, value in cookies.items()))


def with_cookie_header(header: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", header.encode())]})


@pytest.mark.parametrize("is_secure", [True, False])
def test_a_flow_is_read_in_the_browser_that_began_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, is_secure: bool
) -> None:
    cookies = FlowCookies(settings)
    flows = [LoginFlow.begin(f"/{number}", CALLBACK, "s-1") for number in range(9)]
    jar = dict[str, str]()

    def keep(response: Response) -> list[Any]:
        """The cookies of a response, which the browser keeps or deletes."""
        lines = [SimpleCookie(line) for line in response.headers.getlist("set-cookie")]
        found = [morsel for line in lines for morsel in line.values()]
        for one in found:
            jar[one.key] = one.value
            if one["max-age"] == "0":
                del jar[one.key]
            assert one.key.startswith("__Host-bff-login-" if is_secure else "bff-login-")
            assert (one["path"], one["samesite"], one["httponly"]) == ("/", "lax", True)
            assert bool(one["secure"]) is is_secure
        return found

    def read(flow: LoginFlow) -> LoginFlow | None:
        return cookies.read(request(jar), flow.state, secure=is_secure)

    for number, flow in enumerate(flows):
        response = Response()
        cookies.set(request(jar), response, flow, secure=is_secure)
        assert keep(response)[-1]["max-age"] == "600"
        assert len(jar) == (1 if number == 8 else number + 1), "at the ninth all others are deleted"
    response = Response()
    cookies.set(request(jar), response, flows[0], secure=is_secure)
    keep(response)
    first, last = flows[0], flows[-1]
    assert [read(flow) == flow for flow in (first, flows[1], last)] == [True, False, True]
    (of_last, of_first) = jar
    swapped = {of_last: jar[of_first], of_first: "x"}
    for state in (first.state, last.state):
        assert cookies.read(request(swapped), state, secure=is_secure) is None
    twice = with_cookie_header(f"{of_last}={jar[of_last]}; {of_last}=x")
    with pytest.raises(Problem, match="two cookies"):
        cookies.read(twice, last.state, secure=is_secure)
    with monkeypatch.context() as patch:
        later = time.time() + 700
        patch.setattr("cryptography.fernet.time.time", lambda: later)
        assert read(last) is None
    response = Response()
    cookies.delete(response, last, secure=is_secure)
    keep(response)
    assert list(jar) == [of_first]


@pytest.mark.parametrize("path", ["/", "/" + "a" * 999], ids=["short", "longest"])
def test_sign_ins_that_were_begun_leave_room_in_the_cookie_header(
    settings: Settings, path: str
) -> None:
    """Proxies refuse every request whose header of cookies is larger than 8 KB, and another page
    can begin sign-ins."""
    cookies, jar = FlowCookies(settings), dict[str, str]()
    for _ in range(20):
        flow, response = LoginFlow.begin(path, CALLBACK, "s" * 22), Response()
        cookies.set(request(jar), response, flow, secure=True)
        for line in response.headers.getlist("set-cookie"):
            for one in SimpleCookie(line).values():
                jar[one.key] = one.value
                if one["max-age"] == "0":
                    del jar[one.key]
        (header,) = request(jar).headers.getlist("cookie")
        assert len(header) < 6_500
        assert cookies.read(request(jar), flow.state, secure=True) == flow


def test_instances_with_the_same_secret_read_each_others_flows(
    settings: Settings, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("one.pem", "other.pem")]
    for file in files:
        file.write_text(file.name)
    variants: list[dict[str, Any]] = [
        {"jwt_secret": SecretStr("one")},
        {"jwt_secret": SecretStr("other")},
        {"oidc_client_secret": SecretStr("one-of-client")},
        {"oidc_client_secret": SecretStr("another-of-client")},
        *({"oidc_private_key_file": file} for file in files),
        {"jwt_secret": None},
    ]
    made = [settings.model_copy(update=variant) for variant in variants]
    for number, one in enumerate(made):
        flow, response = LoginFlow.begin("/", CALLBACK, None), Response()
        FlowCookies(one).set(request({}), response, flow, secure=True)
        ((name, morsel),) = SimpleCookie(response.headers["set-cookie"]).items()
        readers = [
            FlowCookies(other).read(request({name: morsel.value}), flow.state, secure=True)
            for other in made
        ]
        is_shared = variants[number] != {"jwt_secret": None}
        assert readers == [
            flow if at == number and is_shared else None for at in range(len(made))
        ], variants[number]

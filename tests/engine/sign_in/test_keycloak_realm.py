"""The realm of `deploy/compose-keycloak.yaml` is one that Keycloak reads and the BFF works with.

There is no Keycloak to start here. Its own types check the file, and a certified provider works
with the client and the users of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from bff.connections.close_codes import CloseCode
from bff.endpoints import sign_in
from bff.testing import RunningBff

from tests import node
from tests.engine.sign_in.conftest import Certified, Page, Start
from tests.servers.identity_provider import IdentityProviderServer

PROJECT = Path(sign_in.__file__).parents[2]
REALM: dict[str, Any] = json.loads((PROJECT / "deploy" / "keycloak-realm.json").read_text())
(CLIENT,) = REALM["clients"]
ATTRIBUTES: dict[str, str] = CLIENT["attributes"]
(MAPPER,) = CLIENT["protocolMappers"]
POST_LOGOUT = ATTRIBUTES["post.logout.redirect.uris"].split("##")
USERS = {user["username"]: user["realmRoles"] for user in REALM["users"]}
DOCUMENTED: dict[str, str] = dict(
    re.findall(
        r"^(OIDC_\w+)=(.+)$",
        (PROJECT / "docs" / "sign-in.md")
        .read_text()
        .split("compose-keycloak.yaml")[1]
        .split("```")[1],
        re.M,
    )
)
"""The settings for this realm in the docs."""
COMPOSE = yaml.safe_load((PROJECT / "deploy" / "compose-keycloak.yaml").read_text())
KEYCLOAK = COMPOSE["services"]["keycloak"]
EXAMPLE = (PROJECT / ".env.example").read_text()
DEV_PORT = 8000
KNOWN_ATTRIBUTES = {
    "backchannel.logout.session.required",
    "backchannel.logout.url",
    "pkce.code.challenge.method",
    "post.logout.redirect.uris",
}
"""As Keycloak's source spells them (OIDCConfigAttributes.java): its types allow any name."""

Pages = Callable[[RunningBff], Page]


def type_errors(realm: dict[str, Any], folder: Path) -> list[str]:
    """What tsc says about a realm file, by the types of Keycloak's client for administrators."""
    types = node.packages(Path(__file__).parent / "keycloak")
    (folder / "node_modules").symlink_to(types / "node_modules")
    module = "@keycloak/keycloak-admin-client/lib/defs/realmRepresentation.js"
    text = f'import type Realm from "{module}";\nexport const realm: Realm = {json.dumps(realm)};\n'
    file = folder / "realm.mts"
    file.write_text(text)
    return node.tsc(file)


def test_keycloak_knows_everything_in_the_file(tmp_path: Path) -> None:
    assert type_errors(REALM, tmp_path) == []
    assert set(ATTRIBUTES) <= KNOWN_ATTRIBUTES


def test_an_unknown_name_would_be_found(tmp_path: Path) -> None:
    wrong = REALM | {"clients": [CLIENT | {"redirectUrls": []}]}
    (error,) = type_errors(wrong, tmp_path)
    assert "redirectUrls" in error


def test_the_types_are_those_of_the_keycloak_that_compose_starts() -> None:
    package = json.loads((Path(__file__).parent / "keycloak" / "package.json").read_text())
    (version,) = package["dependencies"].values()
    assert KEYCLOAK["image"] == f"keycloak/keycloak:{version.rpartition('.')[0]}"


def test_the_documented_settings_are_those_of_the_realm() -> None:
    (volume,) = KEYCLOAK["volumes"]
    (port,) = KEYCLOAK["ports"]
    assert "--import-realm" in KEYCLOAK["command"]
    assert volume == "./keycloak-realm.json:/opt/keycloak/data/import/keycloak-realm.json:ro"
    issuer = f"{KEYCLOAK['environment']['KC_HOSTNAME']}/realms/{REALM['realm']}"
    assert str(urlsplit(issuer).port) == port.split(":")[1]
    assert {
        "OIDC_ISSUER": issuer,
        "OIDC_CLIENT_ID": CLIENT["clientId"],
        "OIDC_CLIENT_SECRET": CLIENT["secret"],
        "OIDC_SCOPES_CLAIM": MAPPER["config"]["claim.name"],
    } == DOCUMENTED


def test_the_urls_of_the_client_lead_to_make_dev() -> None:
    """Their paths are tried below."""
    assert f"PORT ?= {DEV_PORT}" in (PROJECT / "Makefile").read_text()
    (allowed,) = re.findall(r"^ALLOWED_ORIGINS=(.+)$", EXAMPLE, re.M)
    origins = {origin for origin in allowed.split(",") if urlsplit(origin).port == DEV_PORT}
    assert set(CLIENT["redirectUris"]) == {f"{origin}/auth/callback" for origin in origins}
    assert set(POST_LOGOUT) == {f"{origin}/" for origin in origins}
    logout = urlsplit(ATTRIBUTES["backchannel.logout.url"])
    assert f"{logout.hostname}:host-gateway" in KEYCLOAK["extra_hosts"]
    assert logout.port == DEV_PORT


def test_the_client_is_as_the_bff_works() -> None:
    """A confidential client with the code flow and PKCE; logout tokens name the session."""
    assert not CLIENT["publicClient"]
    assert CLIENT["clientAuthenticatorType"] == "client-secret"
    flows = ("implicitFlow", "directAccessGrants", "serviceAccounts")
    assert CLIENT["standardFlowEnabled"]
    assert not any(CLIENT[f"{flow}Enabled"] for flow in flows)
    assert ATTRIBUTES["pkce.code.challenge.method"] == "S256"
    assert ATTRIBUTES["backchannel.logout.session.required"] == "true"
    assert MAPPER["config"]["id.token.claim"] == "true", "scopes come from the ID token"


def test_every_role_of_a_user_is_a_scope_of_the_project() -> None:
    defined = {role["name"] for role in REALM["roles"]["realm"]}
    assert {role for roles in USERS.values() for role in roles} == defined
    used = {
        name
        for file in (PROJECT / "app" / "routes").glob("*.py")
        for name in re.findall(r'requires\("(\w+)"\)|scopes=\["(\w+)"\]', file.read_text())
        for name in name
    }
    assert used - {""} <= defined | {"admin"}


class FromRealm(Certified):
    """A certified provider with the client and the users of the realm file."""

    def __init__(self) -> None:
        self._started: IdentityProviderServer | None = None

    def client(self, origin: str, **metadata: Any) -> dict[str, Any]:
        """The documented settings. Only hosts and ports are those of the test."""

        def here(url: str) -> str:
            return origin + urlsplit(url).path

        client = {
            "client_id": CLIENT["clientId"],
            "client_secret": CLIENT["secret"],
            "redirect_uris": [here(uri) for uri in CLIENT["redirectUris"]],
            "post_logout_redirect_uris": [here(uri) for uri in POST_LOGOUT],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "backchannel_logout_uri": here(ATTRIBUTES["backchannel.logout.url"]),
            "backchannel_logout_session_required": (
                ATTRIBUTES["backchannel.logout.session.required"] == "true"
            ),
        }
        outer, inner = MAPPER["config"]["claim.name"].split(".")
        accounts = {user: {outer: {inner: roles}} for user, roles in USERS.items()}
        self.server = self._started = IdentityProviderServer([client], accounts).start()
        settings = {name.lower(): value for name, value in DOCUMENTED.items()}
        return settings | {"oidc_issuer": self.server.url}

    def remove(self) -> None:
        if self._started is not None:
            self._started.remove()


@pytest.fixture
def provider(real_redis: str) -> Iterator[FromRealm]:
    made = FromRealm()
    yield made
    made.remove()


async def test_its_users_sign_in_with_their_roles_and_out_again(start: Start, pages: Pages) -> None:
    async with start() as bff:
        for user, roles in USERS.items():
            page = pages(bff)
            await page.sign_in(user)
            me = await page.me()
            assert me is not None
            assert set(me["scopes"]) == set(roles)
            signed_out = await page.fetch("POST", "/auth/logout")
            at_provider = await page.http.get(signed_out.json()["redirect_to"])
            at_provider = await page.http.get(at_provider.headers["location"])
            assert at_provider.status_code == 200, at_provider.text
            assert await page.me() is None


async def test_its_back_channel_logout_ends_the_session(
    start: Start, pages: Pages, provider: FromRealm
) -> None:
    async with start() as bff:
        page = pages(bff)
        await page.sign_in("ann")
        async with page.socket() as socket:
            await socket.receive()
            await provider.sign_out(page)
            assert await socket.closed() == CloseCode.SESSION_ENDED
        assert await page.me() is None

"""What an identity provider says about itself (OpenID Connect Discovery 1.0, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import orjson


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """The endpoints and abilities of the identity provider. None: it has no such endpoint."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    revocation_endpoint: str | None
    end_session_endpoint: str | None
    pushed_authorization_request_endpoint: str | None
    authorization_response_iss_parameter_supported: bool
    """Every answer to the browser names the issuer (RFC 9207)."""
    token_endpoint_auth_methods_supported: tuple[str, ...]

    @classmethod
    def parse(cls, document: bytes, issuer: str) -> Self:
        """The metadata in a document.

        Raises:
            ValueError: it belongs to another issuer, or an endpoint is missing.
        """
        given = orjson.loads(document)
        if not isinstance(given, dict) or given.get("issuer") != issuer:
            raise ValueError("the issuer in the metadata is not OIDC_ISSUER")
        methods = given.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])

        def optional(name: str) -> str | None:
            return _url(given, name) if name in given else None

        return cls(
            issuer=issuer,
            authorization_endpoint=_url(given, "authorization_endpoint"),
            token_endpoint=_url(given, "token_endpoint"),
            jwks_uri=_url(given, "jwks_uri"),
            userinfo_endpoint=optional("userinfo_endpoint"),
            revocation_endpoint=optional("revocation_endpoint"),
            end_session_endpoint=optional("end_session_endpoint"),
            pushed_authorization_request_endpoint=optional("pushed_authorization_request_endpoint"),
            authorization_response_iss_parameter_supported=(
                given.get("authorization_response_iss_parameter_supported") is True
            ),
            token_endpoint_auth_methods_supported=tuple(map(str, methods)),
        )


def _url(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value.startswith(("https://", "http://", "/")):
        raise ValueError(f"{name} is missing in the metadata")
    return value

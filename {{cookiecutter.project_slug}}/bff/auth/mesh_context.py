"""The context of mesh calls: on whose behalf a call is made."""

from __future__ import annotations

import base64
import hmac
import time
from typing import Any

import orjson

from bff.auth.caller import Caller
from bff.settings import MESH_AUDIENCE, Settings

_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


def mesh_context(caller: Caller, settings: Settings, connection_id: str = "") -> dict[str, Any]:
    """The `context` of a mesh call. Browsers cannot set it.

    `connection_id` is empty for a call that no connection has made. In the context it is
    `session_id`, and `sid` in the token: names of `nuropb_gw`.

    Its token is issued for the call. The caller's own token never leaves the BFF, because services
    echo the context in replies, and dead-letter queues keep it.
    """
    context = {
        "user_id": caller.user_id,
        "username": caller.username,
        "session_id": connection_id,
    }
    secret = settings.mesh_secret
    if secret is not None:
        token = _token(caller, settings, connection_id, secret.encode())
        for key in settings.mesh_token_keys:
            context[key] = settings.mesh_token_prefix + token
    return context


def _token(caller: Caller, settings: Settings, connection_id: str, secret: bytes) -> str:
    """A JWT (RFC 7519) for one call. python-jose would take ten times as long."""
    now = int(time.time())
    claims = {
        "iss": settings.app_name,
        "aud": MESH_AUDIENCE,
        "sub": caller.user_id,
        "sid": connection_id,
        "scope": " ".join(sorted(caller.scopes)),
        "iat": now,
        "exp": min(now + settings.mesh_token_seconds, caller.expires_at),
    }
    body = base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=")
    signed = b".".join((_HEADER, body))
    signature = base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
    return b".".join((signed, signature)).decode()

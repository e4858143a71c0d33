"""The type by which routes and methods ask for the user's access token."""

from __future__ import annotations

from bff.auth.caller import Caller
from bff.errors import Code, Problem


class AccessToken(str):
    """The access token that the identity provider has issued for the caller's session.

    For requests to HTTP services that want it. It is refreshed when it is needed.
    """

    __slots__ = ()


async def no_access_token(caller: Caller) -> AccessToken:
    """What callers get without `OIDC_ISSUER`.

    Raises:
        Problem: `forbidden`.
    """
    raise Problem(Code.FORBIDDEN, "There is no access token: you use a token of your own")

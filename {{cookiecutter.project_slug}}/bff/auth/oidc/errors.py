"""How a request to the token endpoint of the identity provider can fail."""

from __future__ import annotations


class GrantRefused(Exception):
    """The provider has refused a code or a refresh token (`invalid_grant`)."""


class AnswerLost(Exception):
    """The provider may have done what was asked, but its answer did not arrive."""

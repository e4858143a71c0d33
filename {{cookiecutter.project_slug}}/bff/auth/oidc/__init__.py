"""Sign-in at an identity provider (OpenID Connect), as a confidential client (RFC 10017)."""

"""Encryption under a key that is derived from a secret."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet


def derived_cipher(purpose: str, secret: bytes) -> Fernet:
    """Fernet (AES-128-CBC and HMAC-SHA256) with the SHA-256 of purpose and secret as its key.

    The secret must be long and random: the derivation does not slow down guessing.
    """
    digest = hashlib.sha256(purpose.encode() + secret).digest()
    return Fernet(base64.urlsafe_b64encode(digest))

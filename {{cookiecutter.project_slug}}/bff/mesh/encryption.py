"""Payloads that only one service can read: NuroPb's Fernet key inside RSA-OAEP."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_LEAST_BITS = 1024
"""Of a service's key: a shorter one has no room for what is sealed with it."""


class Unreadable(Exception):
    """A body that is not what its key was to open."""


def new_key() -> bytes:
    """A key for one call and its reply."""
    return Fernet.generate_key()


def is_sealed(body: bytes) -> bool:
    """Whether a body is no JSON object. The header is not asked: NuroPb marks plain events too."""
    return not body.lstrip().startswith((b"{", b"["))


def unseal(body: bytes, key: bytes) -> bytes:
    """The text of a reply, by the key that was made for its call.

    Its first half holds the key for the service's own eyes, and is not read.

    Raises:
        Unreadable: another key sealed it, or nobody did.
    """
    _, _, token = body.partition(b".")
    try:
        return Fernet(key).decrypt(base64.b64decode(token, validate=True))
    except (InvalidToken, binascii.Error, ValueError) as error:
        raise Unreadable(type(error).__name__) from None


class PublicKey:
    """A service's key as its description has it, to seal what only the service may read."""

    def __init__(self, pem: str) -> None:
        """
        Raises:
            Unreadable: this is no RSA public key.
        """
        try:
            key = serialization.load_pem_public_key(pem.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Unreadable(type(error).__name__) from None
        if not isinstance(key, rsa.RSAPublicKey):
            raise Unreadable("not an RSA key")
        if key.key_size < _LEAST_BITS:
            raise Unreadable("the key is too small")
        self._key = key

    def seal(self, text: bytes, key: bytes) -> bytes:
        """The body on the wire: the key for the service, then the text."""
        return b".".join(
            (
                base64.b64encode(self._key.encrypt(key, _OAEP)),
                base64.b64encode(Fernet(key).encrypt(text)),
            )
        )


class PrivateKey:
    """A service's own key."""

    def __init__(self, pem: str) -> None:
        """
        Raises:
            Unreadable: this is no RSA private key without a password.
        """
        try:
            key = serialization.load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError) as error:
            raise Unreadable(type(error).__name__) from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise Unreadable("not an RSA key")
        self._key = key
        self.public_pem = (
            key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )
        self._public = PublicKey(self.public_pem)

    def open(self, body: bytes) -> tuple[bytes, bytes]:
        """The text of a call, and the key with which its reply is to be sealed.

        Raises:
            Unreadable: it was not sealed for this key.
        """
        sealed, _, _ = body.partition(b".")
        try:
            key = self._key.decrypt(base64.b64decode(sealed, validate=True), _OAEP)
        except (binascii.Error, ValueError) as error:
            raise Unreadable(type(error).__name__) from None
        return unseal(body, key), key

    def seal(self, text: bytes, key: bytes) -> bytes:
        """The body of a reply. NuroPb puts the key in for itself; its caller looks at the rest."""
        return self._public.seal(text, key)

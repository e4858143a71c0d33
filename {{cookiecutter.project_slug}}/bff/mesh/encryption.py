"""Encrypted payloads, as NuroPb has them: a Fernet key, itself encrypted with RSA-OAEP."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_MIN_RSA_BITS = 1024
"""With a shorter RSA key, OAEP cannot encrypt a Fernet key."""


class EncryptionError(Exception):
    """A key cannot be used, or a body was not encrypted for the key."""


def new_key() -> bytes:
    """A Fernet key for one call and its reply."""
    return Fernet.generate_key()


def is_encrypted(body: bytes) -> bool:
    """Whether a body is not JSON.

    The header `encrypted` is not reliable: NuroPb sets it on plain events too.
    """
    return not body.lstrip().startswith((b"{", b"["))


def decrypt(body: bytes, key: bytes) -> bytes:
    """The text of a body, by the Fernet key of its call.

    The first part of the body is the Fernet key, encrypted for the service. It is ignored here.

    Raises:
        EncryptionError: the body was not encrypted with this key.
    """
    _, _, token = body.partition(b".")
    try:
        return Fernet(key).decrypt(base64.b64decode(token, validate=True))
    except (InvalidToken, binascii.Error, ValueError) as error:
        raise EncryptionError(type(error).__name__) from None


class PublicKey:
    """The RSA public key of a service, from its description."""

    def __init__(self, pem: str) -> None:
        """
        Raises:
            EncryptionError: `pem` is not an RSA public key of at least 1024 bits, or OpenSSL cannot
                encrypt with it: its modulus is even, or has more than 16,384 bits.
        """
        try:
            key = serialization.load_pem_public_key(pem.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise EncryptionError(type(error).__name__) from None
        if not isinstance(key, rsa.RSAPublicKey):
            raise EncryptionError("not an RSA key")
        if key.key_size < _MIN_RSA_BITS:
            raise EncryptionError("the key is too small")
        try:
            key.encrypt(b"", _OAEP)
        except ValueError:
            raise EncryptionError("the key cannot encrypt") from None
        self._key = key

    def encrypt(self, text: bytes, key: bytes) -> bytes:
        """The body on the wire: the Fernet key for the service, a dot, the encrypted text."""
        return b".".join(
            (
                base64.b64encode(self._key.encrypt(key, _OAEP)),
                base64.b64encode(Fernet(key).encrypt(text)),
            )
        )


class PrivateKey:
    """The RSA private key of a service."""

    def __init__(self, pem: str) -> None:
        """
        Raises:
            EncryptionError: `pem` is not an RSA private key, or it has a password.
        """
        try:
            key = serialization.load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError) as error:
            raise EncryptionError(type(error).__name__) from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise EncryptionError("not an RSA key")
        self._key = key
        self.public_pem = (
            key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )
        self._public = PublicKey(self.public_pem)

    def decrypt(self, body: bytes) -> tuple[bytes, bytes]:
        """The text of a call, and the Fernet key with which to encrypt the reply.

        Raises:
            EncryptionError: the body was not encrypted for this key.
        """
        encrypted_key, _, _ = body.partition(b".")
        try:
            key = self._key.decrypt(base64.b64decode(encrypted_key, validate=True), _OAEP)
        except (binascii.Error, ValueError) as error:
            raise EncryptionError(type(error).__name__) from None
        return decrypt(body, key), key

    def encrypt(self, text: bytes, key: bytes) -> bytes:
        """The body of a reply. As in NuroPb it begins with the key, which the caller ignores."""
        return self._public.encrypt(text, key)

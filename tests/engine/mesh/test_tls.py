"""TLS to RabbitMQ with a CA of one's own and client certificates."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from bff.mesh.connect import connect_mesh, open_dead_letters
from bff.mesh.rabbitmq.fast_path import _ssl_context
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost
from bff.settings import Settings
from bff.testing import until
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from tests import servers


class Authority:
    """A CA, which writes certificates and keys to a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"{name} of these tests")
        self.path = self._write(name, self._sign(self._name, self._key, is_ca=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = self._write(name, self._sign(_name(name), key, is_ca=False))
        key_path = self._folder / f"{name}.key"
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path, key_path

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self._folder / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    authority.issue("server")
    authority.issue("client")
    Authority(folder, "other")
    (folder / "broken.pem").write_text("not a certificate")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = servers.rabbitmq_with_tls(folder)
    yield f"127.0.0.1:{server.tls_port}"
    server.remove()


@pytest.fixture
def amqp_url(rabbitmq_url: str, address: str) -> str:
    """`rabbitmq_url` skips these tests where the engine runs on embedded servers."""
    return f"amqps://guest:guest@{address}/"


def options(folder: Path, ca: str = "ca", client: str = "client") -> str:
    named = f"?cafile={folder / ca}.pem"
    return f"{named}&certfile={folder / client}.pem&keyfile={folder / client}.key"


async def test_a_call_over_tls(settings: Settings, amqp_url: str, folder: Path) -> None:
    """Several hosts share the options."""
    hosts = amqp_url.replace("@", "@127.0.0.1:1,")
    settings = Settings.model_validate(
        {**settings.model_dump(), "amqp_url": hosts + options(folder)}
    )
    service = Service(f"{settings.app_name}-service")

    @service.method("double")
    async def double(number: int) -> int:
        return 2 * number

    mesh = connect_mesh(settings)
    mesh.add_service(service)
    await mesh.start()
    try:
        await until(lambda: mesh.status.connected, 30)
        assert await mesh.request(service.name, "double", {"number": 21}) == 42
        async with open_dead_letters(settings) as letters:
            assert await letters.read() == []
    finally:
        await mesh.stop()


FAULTS = {
    "no CA": ("", "certificate verify failed"),
    "another CA": ("?cafile={folder}/other.pem", "certificate verify failed"),
    "no client certificate": ("?cafile={folder}/ca.pem", ""),
    "a missing CA": ("?cafile={folder}/none.pem", "cannot use cafile '{folder}/none.pem'"),
    "a broken CA": ("?cafile={folder}/broken.pem", "cannot use cafile '{folder}/broken.pem'"),
    "a missing client key": (
        "?cafile={folder}/ca.pem&certfile={folder}/client.pem&keyfile={folder}/none.key",
        "keyfile '{folder}/none.key'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_wrong_is_said(
    settings: Settings, amqp_url: str, folder: Path, fault: str
) -> None:
    """By the status and by `bff dead-letters`; the password is not shown."""
    query, reason = (text.format(folder=folder) for text in FAULTS[fault])
    settings = settings.model_copy(update={"amqp_url": amqp_url + query})
    mesh = connect_mesh(settings)
    await mesh.start()
    try:
        await until(lambda: mesh.status.reason not in ("connecting", "not started"))
        assert reason in mesh.status.reason
        assert not mesh.status.connected
        assert "guest" not in mesh.status.reason
        with pytest.raises(ConnectionLost) as lost:
            async with open_dead_letters(settings):
                pass
        assert reason in str(lost.value)
    finally:
        await mesh.stop()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "cannot use the certificates of AMQP_URL"),
        ("?cafile=a", "cannot use cafile 'a' of AMQP_URL"),
        ("?cafile=a&keyfile=b", "cannot use cafile 'a' and keyfile 'b' of AMQP_URL"),
    ],
)
async def test_the_files_that_cannot_be_used_are_named(query: str, words: str) -> None:
    class Provider:
        async def get_context(self) -> None:
            raise ValueError("odd")

    with pytest.raises(ConnectionLost, match=words):
        await _ssl_context(Provider(), URL(f"amqps://host/{query}"))

"""Serves a BFF and verifies a token of every algorithm, without the packages that python-jose names
and does not need beside cryptography. Prints which of them were looked for.

A program of its own, because an import cannot be undone: test_couplings.py runs it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path

UNNEEDED = {"ecdsa", "pyasn1", "rsa", "six"}


class Refusal:
    """An import hook that finds none of them."""

    def __init__(self) -> None:
        self.sought: set[str] = set()

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name.partition(".")[0] in UNNEEDED:
            self.sought.add(name)
            raise ModuleNotFoundError(name)
        return None


async def verify_all(folder: Path) -> None:
    # Imported here: after the hook.
    from bff.auth.tokens import TokenVerifier, issue
    from bff.settings import HMAC_ALGORITHMS, PUBLIC_KEY_ALGORITHMS, Settings
    from bff.testing import run

    from tests.engine.auth.test_jwks import Provider, Signer, make_verifier
    from tests.engine.echo import create_app

    settings = Settings(
        _env_file=None,
        environment="test",
        redis_url="memory://",
        amqp_url="memory://",
        database_url=f"sqlite+aiosqlite:///{folder}/test.sqlite3",
        jwt_secret="a-secret-for-tests-only-0123456789abcdef",
    )
    async with run(create_app(settings)) as bff, bff.browser():
        pass
    for algorithm in HMAC_ALGORITHMS:
        own = settings.model_copy(update={"jwt_algorithms": (algorithm,)})
        assert (await TokenVerifier(own).verify(issue(own, "alice"))).user_id == "alice"
    for algorithm in PUBLIC_KEY_ALGORITHMS:
        signer = Signer("key", algorithm)
        verifier = make_verifier(settings, Provider(signer.entry()), algorithm)
        assert (await verifier.verify(signer.sign())).user_id == "alice"
        await verifier.tokens.close()


if __name__ == "__main__":
    refusal = Refusal()
    sys.meta_path.insert(0, refusal)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(verify_all(Path(folder)))
    print("looked for:", *sorted(refusal.sought))

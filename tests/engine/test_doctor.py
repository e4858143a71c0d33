"""`bff doctor`: exposed methods that require encrypted calls."""

from __future__ import annotations

import pytest
from bff.doctor import check_encryption
from bff.mesh.describe import MethodDescription, ServiceDescription
from bff.realtime.router import RealtimeRouter

ENCRYPTED, PLAIN = MethodDescription(encrypted=True), MethodDescription()
PAYMENTS = ServiceDescription(
    "payments", methods={"pay": ENCRYPTED, "list": PLAIN, "hidden": ENCRYPTED}
)


@pytest.mark.parametrize("methods", [["pay", "list"], ["*a*", "l*"]], ids=["named", "patterns"])
@pytest.mark.parametrize("encrypted", [True, False])
def test_a_method_that_requires_encryption_must_be_exposed_encrypted(
    methods: list[str], encrypted: bool
) -> None:
    realtime = RealtimeRouter()
    realtime.expose("payments", methods=methods, encrypted=encrypted)
    (finding,) = check_encryption(PAYMENTS, realtime)
    assert finding.ok is encrypted
    assert "payments.pay requires encrypted calls" in str(finding)
    assert ("encrypted=True" in str(finding)) is not encrypted


def test_methods_that_are_not_exposed_are_not_checked() -> None:
    assert check_encryption(PAYMENTS, RealtimeRouter()) == []

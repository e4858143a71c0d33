"""What the doctor says of methods that ask for encrypted calls."""

from __future__ import annotations

import pytest
from bff.doctor import sealing_of
from bff.mesh.describe import MethodDescription, ServiceDescription
from bff.realtime.router import RealtimeRouter

ASKS, PLAIN = MethodDescription(encrypted=True), MethodDescription()
PAYMENTS = ServiceDescription("payments", methods={"pay": ASKS, "list": PLAIN, "hidden": ASKS})


@pytest.mark.parametrize("methods", [["pay", "list"], ["*a*", "l*"]], ids=["named", "patterns"])
@pytest.mark.parametrize("encrypted", [True, False])
def test_an_exposed_method_that_asks_must_be_exposed_encrypted(
    methods: list[str], encrypted: bool
) -> None:
    realtime = RealtimeRouter()
    realtime.expose("payments", methods=methods, encrypted=encrypted)
    (finding,) = sealing_of(PAYMENTS, realtime)
    assert finding.ok is encrypted
    assert "payments.pay asks for encrypted calls" in str(finding)
    assert ("encrypted=True" in str(finding)) is not encrypted


def test_what_is_not_exposed_is_nobodys_matter() -> None:
    assert sealing_of(PAYMENTS, RealtimeRouter()) == []

"""The contract of a feature that declares one of everything."""

from __future__ import annotations

import pytest
from bff.contract.contract import Contract, contract_of

from tests.engine.everything import feature


@pytest.fixture
def contract() -> Contract:
    return contract_of(feature(), title="Shop", version="1.2.3", socket_path="/ws")

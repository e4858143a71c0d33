"""The delays between retries."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from bff.backoff import backoff_delays


@pytest.mark.parametrize(("chosen", "share"), [(max, 1.0), (min, 0.5)])
def test_delays_double_up_to_the_longest(
    monkeypatch: pytest.MonkeyPatch, chosen: object, share: float
) -> None:
    monkeypatch.setattr(random, "uniform", lambda *limits: chosen(limits))  # type: ignore[operator]
    delays = [*islice(backoff_delays(1, 5), 5)]
    assert delays == [share * delay for delay in (1, 2, 4, 5, 5)]

"""What `bff` does before it serves."""

from __future__ import annotations

import socket

import click
import pytest
from bff.cli import _check_address


def test_a_port_in_use_is_refused_with_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(click.ClickException, match=f"cannot bind to 127.0.0.1 port {port}"):
            _check_address("127.0.0.1", port)


def test_a_free_port_is_not_listened_on_before_the_app_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a rolling update nginx would send it requests, which the end of the check would reset."""

    def listen(*_: object) -> None:
        raise AssertionError("it listens")

    monkeypatch.setattr(socket.socket, "listen", listen)
    _check_address("127.0.0.1", 0)

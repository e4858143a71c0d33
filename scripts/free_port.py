"""Checks that a port is free, before anything else is started."""

from __future__ import annotations

import socket
import sys


def main(host: str, port: str) -> str | None:
    """An error message, or None if `host:port` is free."""
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return f"PORT={port} is not a port: use a number from 1 to 65535."
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            other = int(port) % 65535 + 1
            return f"Port {port}: {error.strerror}. Try another: make demo PORT={other}"
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

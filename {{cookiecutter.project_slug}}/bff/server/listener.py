"""Stops a listening socket without losing the connections that are just being made."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_SO_ATTACH_FILTER: Final = 26
"""`asm-generic/socket.h`; Python's `socket` does not have it."""
_DROP_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header with the flags
    (0x45, 0, 1, 0x02),  # continue if SYN is set, else skip one
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep it whole
)
"""Instructions of a classic BPF program (code, jump if true, jump if false, operand)."""
_HANDSHAKE_SECONDS: Final = 0.1
"""More than the TCP handshake of a proxy takes."""


async def refuse_connects(listeners: Iterable[socket.socket]) -> None:
    """Let no client begin to connect, and wait until the connects that have begun are accepted.

    When a listening socket is closed, the kernel resets the connections that wait to be accepted. A
    proxy may have sent a POST on them, which it does not repeat elsewhere. So SYN packets are
    dropped first (socket(7), `SO_ATTACH_FILTER`). Their clients try again a second later, find the
    port closed, and a proxy then asks another instance.

    Linux only; elsewhere this does nothing. Only for sockets that no other process listens on.
    """
    if sys.platform != "linux":
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    program = ctypes.create_string_buffer(code)
    option = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    for listener in listeners:
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            # A duplicate, because uvloop's sockets have no options.
            with suppress(OSError), socket.socket(fileno=os.dup(listener.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    await asyncio.sleep(_HANDSHAKE_SECONDS)

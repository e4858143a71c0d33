"""What the close codes mean to clients."""

from __future__ import annotations

from bff.connections.close_codes import CloseCode, reconnects


def test_clients_reconnect_after_what_may_be_over_and_not_after_what_stays_wrong() -> None:
    """`docs/protocol.md`: never after 4500 and above, nor after a violation of the protocol."""
    assert {code for code in CloseCode if not reconnects(code)} == {
        *(CloseCode.NORMAL, CloseCode.PROTOCOL_ERROR, CloseCode.UNSUPPORTED_DATA),
        *(CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG),
        *(CloseCode.NOT_AUTHENTICATED, CloseCode.BAD_FRAME, CloseCode.REVOKED),
        CloseCode.SESSION_ENDED,
    }
    assert reconnects(4499)
    assert not reconnects(4500)

"""What the close codes mean to clients and to metrics."""

from __future__ import annotations

from bff.connections.close_codes import CloseCode, close_code_label, reconnects


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


def test_peers_cannot_make_metrics_grow_with_codes_of_their_own() -> None:
    labels = {close_code_label(code) for code in range(65536)}
    ours = {str(int(code)) for code in CloseCode}
    assert labels == {"other", *ours, *(str(code) for code in range(1000, 1016))}
    assert close_code_label(CloseCode.DRAIN) == "4001"

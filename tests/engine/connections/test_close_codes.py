"""What the close codes mean to clients, to metrics and on the wire."""

from __future__ import annotations

from bff.connections.close_codes import CloseCode, close_code_label, is_sendable, reconnects


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


def test_a_close_frame_carries_codes_that_rfc_6455_allows_and_no_others() -> None:
    """Sections 7.4.1 and 7.4.2, and IANA's registry: 1012 to 1014."""
    allowed = {code for code in range(65536) if is_sendable(code)}
    assert allowed == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}

"""The parser against that of `websockets`, which is the reference: both find the same in whatever
comes, in whatever pieces."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from bff.server.codes import INVALID_DATA, PROTOCOL_ERROR, TOO_BIG
from bff.server.parser import (
    BINARY,
    CLOSE,
    TEXT,
    BadFrameError,
    Parser,
    close_code,
)
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side

MAX_SIZE = 1000
NONSENSE = bytes(MAX_SIZE + 100)
"""Is an error to both, and completes every frame before it: the reference looks at some bits when a
frame is complete only."""
Found = list[tuple[int, bytes]]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def pieces(data: bytes, chance: random.Random) -> Iterable[bytes]:
    while data:
        size = chance.choice((1, 2, 3, 7, 64, len(data)))
        yield data[:size]
        data = data[size:]


def ours(chunks: Iterable[bytes]) -> tuple[Found, int | None]:
    """What is found, and the code of the error that ended it."""
    parser, found = Parser(MAX_SIZE), Found()
    try:
        for chunk in chunks:
            for opcode, payload in parser.feed(chunk):
                if opcode == CLOSE:
                    close_code(payload)
                    return [*found, (opcode, payload)], None
                found.append((opcode, payload))
    except BadFrameError as error:
        return found, error.code
    return found, None


def theirs(chunks: Iterable[bytes]) -> tuple[Found, int | None]:
    """The same from `websockets`, with fragments joined."""
    parser, found = Protocol(Side.SERVER, max_size=MAX_SIZE), Found()
    message, kind = b"", 0
    for chunk in chunks:
        parser.receive_data(chunk)
        for event in parser.events_received():
            assert isinstance(event, Frame)
            payload = bytes(event.data)
            if event.opcode is Opcode.CLOSE:
                return [*found, (CLOSE, payload)], None
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if event.opcode is not Opcode.CONT:
                    message, kind = b"", event.opcode
                message += payload
                if event.fin:
                    found.append((kind, message))
            else:
                found.append((event.opcode, payload))
        if parser.parser_exc is not None:
            assert parser.close_sent is not None
            return found, parser.close_sent.code
    return found, None


def handler(chance: random.Random) -> bytes:
    """Frames as a client may send them, now and then with something wrong."""
    sent = bytearray()
    for _ in range(chance.randrange(1, 12)):
        opcode = chance.choice((0, 1, 1, 1, 2, 2, 8, 9, 10))
        size = chance.choice((0, 1, 5, 125, 126, 127, 400, 999))
        if opcode >= CLOSE:
            size = min(size, 125)
        payload = chance.randbytes(size)
        if opcode == CLOSE:
            payload = Close(chance.choice((1000, 1001, 3000, 4999)), "bye").serialize()
        one = bytearray(frame(opcode, payload, fin=opcode >= CLOSE or chance.random() < 0.6))
        if chance.random() < 0.05:
            one[chance.randrange(2)] ^= 1 << chance.randrange(8)
        sent += one
    return bytes(sent) + NONSENSE


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_the_reference_finds(seed: int) -> None:
    """Of several things that are wrong with a frame each may name another first. The reference is
    stricter amid a message, where the RFC allows control frames (5.4): a close is an error to it,
    and a ping counts as a part of the message's size."""
    chance = random.Random(seed)
    wrong = {PROTOCOL_ERROR, TOO_BIG, INVALID_DATA}
    for _ in range(100):
        data = handler(chance)
        chunks = list(pieces(data, chance))
        (found, code), (expected, expected_code) = ours(chunks), theirs(chunks)
        if len(found) > len(expected) and expected_code in wrong:
            control = (opcode for opcode, _ in found[len(expected) :])
            assert next(control) >= CLOSE, data.hex()
            assert found[: len(expected)] == expected, data.hex()
            continue
        assert found == expected, data.hex()
        assert code == expected_code or {code, expected_code} <= wrong, data.hex()


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 999, 1000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_comes_out_as_it_went_in(opcode: int, length: int) -> None:
    payload = random.Random(length).randbytes(length)
    data = frame(opcode, payload)
    assert ours([data]) == ([(opcode, payload)], None)
    assert ours(data[at : at + 1] for at in range(len(data))) == ([(opcode, payload)], None)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ([frame(TEXT, bytes(MAX_SIZE + 1))], TOO_BIG),
        ([frame(TEXT, bytes(600), fin=False), frame(0, bytes(600))], TOO_BIG),
        ([b"\x81\xff" + (1 << 62).to_bytes(8)], TOO_BIG),
        ([b"\x81\x05hello"], PROTOCOL_ERROR),
        ([b"\xc1\x80\0\0\0\0"], PROTOCOL_ERROR),
        ([b"\x83\x80\0\0\0\0"], PROTOCOL_ERROR),
        ([b"\x8b\x80\0\0\0\0"], PROTOCOL_ERROR),
        ([b"\x09\x80\0\0\0\0"], PROTOCOL_ERROR),
        ([b"\x89\xfe\0\x7e\0\0\0\0"], PROTOCOL_ERROR),
        ([frame(0, b"x")], PROTOCOL_ERROR),
        ([frame(TEXT, b"x", fin=False), frame(TEXT, b"y")], PROTOCOL_ERROR),
        ([frame(CLOSE, b"\x03\xe8\xff")], INVALID_DATA),
    ],
)
def test_what_is_wrong_is_named(wrong: Sequence[bytes], code: int) -> None:
    assert ours(wrong) == ([], code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535])
def test_codes_that_nobody_may_send(code: int) -> None:
    with pytest.raises(BadFrameError):
        close_code(code.to_bytes(2))


def test_a_close_without_a_code_and_one_that_is_cut_off() -> None:
    assert close_code(b"") == 1005
    with pytest.raises(BadFrameError):
        close_code(b"\x03")


def test_what_comes_before_the_error_is_found_first() -> None:
    parser, found = Parser(MAX_SIZE), Found()
    with pytest.raises(BadFrameError):
        found.extend(parser.feed(frame(TEXT, b"one") + b"\xff\xff"))
    parsing = Parser(MAX_SIZE).feed(frame(TEXT, b"one") + b"\xff\xff")
    assert next(parsing) == (TEXT, b"one")

"""The parser compared with that of `websockets`: both find the same messages and errors, however
the input is split."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from bff.connections.close_codes import CloseCode
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
INVALID = bytes(MAX_SIZE + 100)
"""An error in both parsers. It is long enough to complete any frame before it: the reference checks
some bits only when a frame is complete."""
Found = list[tuple[int, bytes]]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def pieces(data: bytes, chance: random.Random) -> Iterable[bytes]:
    while data:
        size = chance.choice((1, 2, 3, 7, 64, len(data)))
        yield data[:size]
        data = data[size:]


def ours(chunks: Iterable[bytes]) -> tuple[Found, int | None]:
    """The frames found, and the code of the error that stopped the parser."""
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
    """The same with `websockets`, with fragments joined."""
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


def random_frames(chance: random.Random) -> bytes:
    """Random client frames; one in twenty has a flipped header bit."""
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
    return bytes(sent) + INVALID


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_the_same_as_the_reference(seed: int) -> None:
    """If a frame has several errors, each parser may report another one. Between fragments, where
    the RFC allows control frames (section 5.4), the reference is stricter: a close is an error, and
    the payload of a ping counts towards the message's size."""
    chance = random.Random(seed)
    wrong = {CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG, CloseCode.INVALID_DATA}
    for _ in range(100):
        data = random_frames(chance)
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
def test_a_message_is_parsed_in_one_chunk_and_bytewise(opcode: int, length: int) -> None:
    payload = random.Random(length).randbytes(length)
    data = frame(opcode, payload)
    assert ours([data]) == ([(opcode, payload)], None)
    assert ours(data[at : at + 1] for at in range(len(data))) == ([(opcode, payload)], None)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ([frame(TEXT, bytes(MAX_SIZE + 1))], CloseCode.MESSAGE_TOO_BIG),
        ([frame(TEXT, bytes(600), fin=False), frame(0, bytes(600))], CloseCode.MESSAGE_TOO_BIG),
        ([b"\x81\xff" + (1 << 62).to_bytes(8)], CloseCode.MESSAGE_TOO_BIG),
        ([b"\x81\x05hello"], CloseCode.PROTOCOL_ERROR),
        ([b"\xc1\x80\0\0\0\0"], CloseCode.PROTOCOL_ERROR),
        ([b"\x83\x80\0\0\0\0"], CloseCode.PROTOCOL_ERROR),
        ([b"\x8b\x80\0\0\0\0"], CloseCode.PROTOCOL_ERROR),
        ([b"\x09\x80\0\0\0\0"], CloseCode.PROTOCOL_ERROR),
        ([b"\x89\xfe\0\x7e\0\0\0\0"], CloseCode.PROTOCOL_ERROR),
        ([frame(0, b"x")], CloseCode.PROTOCOL_ERROR),
        ([frame(TEXT, b"x", fin=False), frame(TEXT, b"y")], CloseCode.PROTOCOL_ERROR),
        ([frame(CLOSE, b"\x03\xe8\xff")], CloseCode.INVALID_DATA),
    ],
)
def test_the_close_code_of_each_error(wrong: Sequence[bytes], code: int) -> None:
    assert ours(wrong) == ([], code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535])
def test_close_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(BadFrameError):
        close_code(code.to_bytes(2))


def test_a_close_frame_with_no_code_or_half_a_code() -> None:
    assert close_code(b"") == CloseCode.NO_STATUS
    with pytest.raises(BadFrameError):
        close_code(b"\x03")


def test_messages_before_an_error_are_found() -> None:
    parser, found = Parser(MAX_SIZE), Found()
    with pytest.raises(BadFrameError):
        found.extend(parser.feed(frame(TEXT, b"one") + b"\xff\xff"))
    parsing = Parser(MAX_SIZE).feed(frame(TEXT, b"one") + b"\xff\xff")
    assert next(parsing) == (TEXT, b"one")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    ("width", "size", "code"),
    [
        (2, 0, CloseCode.PROTOCOL_ERROR),
        (2, 125, CloseCode.PROTOCOL_ERROR),
        (2, 126, None),
        (8, 1, CloseCode.PROTOCOL_ERROR),
        (8, 0xFFFF, CloseCode.PROTOCOL_ERROR),
        (8, 0x10000, None),
    ],
)
def test_a_length_must_have_its_shortest_form(
    opcode: int, width: int, size: int, code: int | None
) -> None:
    """RFC 6455, section 5.2: "the minimal number of bytes MUST be used"."""
    header = bytes((0x80 | opcode, 0x80 | (126 if width == 2 else 127)))
    data = header + size.to_bytes(width) + bytes(4) + bytes(size)
    parser = Parser(1 << 20)
    if code is None:
        assert [*parser.feed(data[:3]), *parser.feed(data[3:])] == [(opcode, bytes(size))]
        return
    with pytest.raises(BadFrameError) as refused:
        _ = [*parser.feed(data[:3]), *parser.feed(data[3:])]
    assert refused.value.code == code

"""Reading replies: whole, octet by octet, with junk behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.forward.replies import MAX_LINE, MAX_LINES, HopReply, ReplyReader

GOOD = [
    (b"250 2.1.0 OK\r\n", HopReply(250, (b"2.1.0 OK",))),
    (b"250-one\r\n250-\r\n250 three\r\n", HopReply(250, (b"one", b"", b"three"))),  # RFC 5321 §4.2.1
    (b"354\r\n", HopReply(354, (b"",))),  # §4.2: a code may stand alone
    (b"221 \r\n", HopReply(221, (b"",))),
    (b"550 na\xc3\xafve\r\n", HopReply(550, ("naïve".encode(),))),  # RFC 6531 §3.7.4
    (b"250 \x1b[31mred\r\n", HopReply(250, (b"\x1b[31mred",))),  # made harmless where it is repeated
    (b"250 " + b"x" * (MAX_LINE - 6) + b"\r\n", HopReply(250, (b"x" * (MAX_LINE - 6),))),
    (b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n", HopReply(250, (b"x",) * MAX_LINES)),
]

BAD = {
    "no code": b"hello\r\n",
    "empty line": b"\r\n",
    "a code of two digits": b"25 OK\r\n",
    "a code of four digits": b"2500 OK\r\n",
    "1yz, which SMTP does not have (§4.2.1)": b"150 wait\r\n",
    "6yz": b"650 what\r\n",
    "second digit over 5 (§4.2)": b"270 OK\r\n",
    "digits that are not ASCII": "２５０ OK\r\n".encode(),
    "signs that int() takes": b"+25 OK\r\n",
    "spaces that int() takes": b" 25 OK\r\n",
    "underscore that int() takes": b"2_5 OK\r\n",
    "tab for space": b"250\tOK\r\n",
    "bare LF": b"250 OK\n",
    "LF inside, a reply in a reply": b"250 OK\n550 no\r\n",
    "CR inside": b"250 OK\r550 no\r\n",
    "CR CR LF": b"250 OK\r\r\n",
    "NUL": b"250 O\0K\r\n",
    "another code within a reply": b"250-one\r\n550 two\r\n",
    "a line too long": b"250 " + b"x" * (MAX_LINE - 5) + b"\r\n",
    "a line without end": b"250 " + b"x" * MAX_LINE,
    "a megabyte": b"x" * 2**20,
    "lines without end": b"250-x\r\n" * (MAX_LINES + 1),
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


def read(data: bytes, size: int) -> tuple[list[HopReply], ReplyReader]:
    reader, replies = ReplyReader(), []
    for at in range(0, len(data), size):
        replies += reader.feed(data[at : at + size])
    return replies, reader


@pytest.mark.parametrize("size", [1, 7, 10**7])
@pytest.mark.parametrize(("wire", "expected"), GOOD)
def test_a_reply(wire: bytes, expected: HopReply, size: int) -> None:
    replies, reader = read(wire, size)
    assert replies == [expected]
    assert reader.is_between_replies


@pytest.mark.parametrize("size", [1000, 10**7])
@pytest.mark.parametrize("wire", BAD.values(), ids=BAD.keys())
def test_what_is_no_reply(wire: bytes, size: int) -> None:
    replies, reader = read(wire, size)
    assert replies == []
    assert reader.problem
    assert not reader.is_between_replies
    assert reader.feed(b"250 OK\r\n") == [], "nothing behind it is read"


@pytest.mark.parametrize("wire", BAD.values(), ids=BAD.keys())
def test_a_reply_before_junk_counts(wire: bytes) -> None:
    replies, reader = read(b"250 OK\r\n" + wire, 10**7)
    assert replies == [HopReply(250, (b"OK",))]
    assert reader.problem


def test_half_a_reply_is_not_between_replies() -> None:
    for half in (b"2", b"250 O", b"250-one\r\n", b"250-one\r\n250 tw"):
        _, reader = read(half, 10**7)
        assert not reader.is_between_replies
        assert not reader.problem


LINE = st.binary(max_size=60).map(lambda text: text.translate(None, b"\r\n\0"))
REPLY = st.builds(
    HopReply,
    st.integers(200, 599).filter(lambda code: code // 10 % 10 < 6),
    st.lists(LINE, min_size=1, max_size=5).map(tuple),
)


def wire(reply: HopReply) -> bytes:
    last = len(reply.lines) - 1
    return b"".join(
        b"%d%s%s\r\n" % (reply.code, b" " if index == last else b"-", line) for index, line in enumerate(reply.lines)
    )


@given(st.lists(REPLY, max_size=8), st.integers(1, 40))
def test_replies_come_out_as_they_went_in_however_they_are_cut(replies: list[HopReply], size: int) -> None:
    got, reader = read(b"".join(map(wire, replies)), size)
    assert got == replies
    assert reader.is_between_replies


@given(st.binary(max_size=400), st.integers(1, 40))
def test_any_octets_are_read_alike_in_any_slices(data: bytes, size: int) -> None:
    whole, at_once = read(data, 10**7)
    sliced, bit_by_bit = read(data, size)
    assert (whole, at_once.problem) == (sliced, bit_by_bit.problem)


@given(st.lists(st.sampled_from([b"250", b"-", b" ", b"x" * 700, b"\r", b"\n", b"\r\n", b"\0"]), max_size=300))
def test_never_more_than_a_line_is_held(parts: list[bytes]) -> None:
    reader = ReplyReader()
    for part in parts:
        reader.feed(part)
        assert len(reader._buffer) <= MAX_LINE
        assert len(reader._lines) < MAX_LINES

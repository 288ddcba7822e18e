"""The final dot is found where RFC 5321 §4.1.1.4 puts it, whatever chunks the stream comes in."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import reply
from relay.accept import wire
from relay.accept.data import DotReader, seconds_for_block
from relay.accept.limits import Load, Reservation
from relay.config.models import Limit, Stress

STREAMS = st.lists(
    st.sampled_from([b"\r\n.\r\n", b"\r\n..", b"\r\n.", b".", b"\r\n", b"\r", b"\n", b"\0", b"a", b"..\r\n"])
).map(b"".join)


def naive(stream: bytes) -> tuple[bytes, bytes] | None:
    """Line by line: the message and what stands behind it; None when the end does not come."""
    content = b""
    while (end := stream.find(b"\r\n")) >= 0:
        line, stream = stream[: end + 2], stream[end + 2 :]
        if line == b".\r\n":
            return content, stream
        content += line[1:] if line.startswith(b".") else line
    return None


def reader_of(max_size: int) -> DotReader:
    load = Load(Limit(), Stress(), 0, lambda on: None)
    return DotReader(Reservation(load, max_size), 0.0)


def read(chunks: list[bytes]) -> tuple[bytes, bytes] | None:
    reader = reader_of(10**6)
    for index, chunk in enumerate(chunks):
        rest = reader.feed(bytearray(chunk))
        if rest is not None:
            assert reader.received == sum(map(len, chunks[: index + 1])) - len(rest)
            return bytes(reader.content), bytes(rest) + b"".join(chunks[index + 1 :])
    return None


@given(STREAMS)
def test_the_end_is_where_reading_line_by_line_finds_it(stream: bytes) -> None:
    assert read([stream]) == naive(stream)


@given(STREAMS, st.lists(st.integers(0, 80)))
def test_any_split_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert read([stream[a:b] for a, b in pairwise(places)]) == naive(stream)


@given(STREAMS, st.lists(st.integers(0, 80)))
def test_what_is_wrong_with_the_message_is_found_over_any_split(stream: bytes, cuts: list[int]) -> None:
    stream += b"\r\n.\r\n"
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = reader_of(10**6)
    for start, end in pairwise(places):
        if reader.feed(bytearray(stream[start:end])) is not None:
            break
    assert reader.problem is wire.problem(reader.content)


@given(STREAMS)
def test_octet_by_octet_gives_the_same(stream: bytes) -> None:
    assert read([stream[at : at + 1] for at in range(len(stream))]) == naive(stream)


@pytest.mark.parametrize(
    ("stream", "content", "rest"),
    [
        (b".\r\n", b"", b""),
        (b".\r\nQUIT\r\n", b"", b"QUIT\r\n"),
        (b"\r\n.\r\n", b"\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n", b""),
        (b".x\r\n...\r\n.\r\n.\r\n", b"x\r\n..\r\n", b".\r\n"),
    ],
)
def test_dots_are_unstuffed(stream: bytes, content: bytes, rest: bytes) -> None:
    """RFC 5321 §4.5.2."""
    assert read([stream]) == (content, rest)


def test_what_may_not_grow_is_read_to_its_end_and_forgotten() -> None:
    reader = reader_of(10)
    assert reader.feed(bytearray(b"12345678\r\n")) is None
    assert reader.feed(bytearray(b"9\r\n")) is None
    assert reader.refused is None or not reader.content
    assert reader.feed(bytearray(b"x\r\n.\r\nNOOP\r\n")) == b"NOOP\r\n"
    assert reader.refused is reply.TOO_BIG
    assert not reader.content


@pytest.mark.parametrize(
    ("elapsed", "received", "seconds"),
    [
        (0.0, 0, 60.0),  # the first minute is free of the rate
        (50.0, 0, 10.0),
        (60.0, 0, 0.0),
        (60.0, 500 * 100, 40.0),  # 100 seconds' worth came in 60
        (60.0, 500 * 1000, 180.0),  # never longer than between two blocks (§4.5.3.2.5)
        (7200.0, 500 * 7200 + 5000, 10.0),  # no fixed total
        (100.0, 500 * 99, -1.0),
    ],
)
def test_a_message_must_keep_up_its_rate(elapsed: float, received: int, seconds: float) -> None:
    assert seconds_for_block(elapsed, received, idle=180.0, rate=500) == pytest.approx(seconds)

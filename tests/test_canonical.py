"""The relaxed forms of DKIM: the RFC's own examples, dkimpy as the oracle, and what they cost."""

from __future__ import annotations

from itertools import pairwise

import dkim.canonicalization
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.canonical import chunked, relaxed_body, relaxed_field, relaxed_header, simple_body, simple_field
from relay.message import CHUNK, Message

# What canonicalisation is about, and little else.
LINES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"a", b".", b"\xc3\xa9"]), max_size=40).map(b"".join)


def canonical(body: bytes) -> bytes:
    return b"".join(relaxed_body([body]))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # RFC 6376 §3.4.5, example 1
        (b"A: X\r\n", b"a:X"),
        (b"B : Y\t\r\n\tZ  \r\n", b"b:Y Z"),
        # §3.4.2, each step
        (b"SUBJect: AbC\r\n", b"subject:AbC"),
        (b"A:\r\n\t \r\n x\r\n", b"a:x"),
        (b"A:  : \t :\r\n", b"a:: :"),
        (b"A:\r\n", b"a:"),
        (b"A: \xc3\xa9\r\n", b"a:\xc3\xa9"),
    ],
)
def test_relaxed_field(raw: bytes, expected: bytes) -> None:
    assert relaxed_field(raw) == expected


@given(st.lists(st.lists(st.sampled_from([b" ", b"\t", b"\r\n ", b"\r\n\t", b"a", b":"]), max_size=12).map(b"".join)))
def test_a_relaxed_header_is_its_relaxed_fields(values: list[bytes]) -> None:
    header = b"".join(b"Name \t:" + value + b"\r\n" for value in values)
    fields = Message.parse(header + b"\r\n").fields
    assert len(fields) == len(values)
    assert relaxed_header(fields) == b"".join(relaxed_field(field.raw) + b"\r\n" for field in fields)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # RFC 6376 §3.4.5, example 1
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        # §3.4.4: a body of empty lines is an empty body
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n \t\r\n\r\n", b""),
        # empty lines before text stay
        (b"\r\n\r\na\r\n", b"\r\n\r\na\r\n"),
        # a line end is added where there is none
        (b"a", b"a\r\n"),
        (b"a \r\n b", b"a\r\n b\r\n"),
    ],
)
def test_relaxed_body(body: bytes, expected: bytes) -> None:
    assert canonical(body) == expected


def test_simple_field() -> None:
    # RFC 6376 §3.4.1, §3.4.5 example 2
    assert simple_field(b"B : Y\t\r\n\tZ  \r\n") == b"B : Y\t\r\n\tZ  "


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # RFC 6376 §3.4.5, example 2
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
        # §3.4.3: an empty body is one CRLF
        (b"", b"\r\n"),
        (b"\r\n\r\n", b"\r\n"),
        (b" \r\n\r\n", b" \r\n"),
        (b"\r\n\r\na", b"\r\n\r\na\r\n"),
    ],
)
def test_simple_body(body: bytes, expected: bytes) -> None:
    assert b"".join(simple_body([body])) == expected


@given(LINES, st.lists(st.integers(0, 60), max_size=8))
@example(b"a\r\n\r\nb\r\n", [2, 3, 4, 5, 6, 7])
def test_a_simple_body_is_what_dkimpy_makes_of_it_wherever_the_pieces_end(body: bytes, cuts: list[int]) -> None:
    borders = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:end] for start, end in pairwise(borders)]
    assert b"".join(simple_body(pieces)) == dkim.canonicalization.Simple.canonicalize_body(body)


@given(LINES.map(lambda lines: lines + b"\r\n"))
def test_a_body_is_what_dkimpy_makes_of_it(body: bytes) -> None:
    assert canonical(body) == dkim.canonicalization.Relaxed.canonicalize_body(body)


@given(st.sampled_from([b"Subject", b"X-a", b"FROM "]), LINES)
def test_a_field_is_what_dkimpy_makes_of_it(name: bytes, value: bytes) -> None:
    value = value.replace(b"\r\n", b"\r\n ") + b"\r\n"
    [(wanted_name, wanted)] = dkim.canonicalization.Relaxed.canonicalize_headers([(name, value)])
    assert relaxed_field(name + b":" + value) + b"\r\n" == wanted_name + b":" + wanted


@given(LINES, st.lists(st.integers(0, 60), max_size=8))
@example(b"a \r\n \r\nb", [2, 3, 4, 5, 6, 7])  # every border
def test_where_the_pieces_end_makes_no_difference(body: bytes, cuts: list[int]) -> None:
    borders = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:end] for start, end in pairwise(borders)]
    assert b"".join(relaxed_body(pieces)) == canonical(body)


@pytest.mark.parametrize(
    "body", [b"a \t" * CHUNK + b"\r\n", b"a" + b"\r\n" * (2 * CHUNK) + b"b\r\n", b"a" + b" \r\n" * CHUNK + b" b"]
)
def test_a_body_of_several_chunks_is_what_dkimpy_makes_of_it(body: bytes) -> None:
    body += b"\r\n"
    assert b"".join(relaxed_body(chunked(memoryview(body)))) == dkim.canonicalization.Relaxed.canonicalize_body(body)


@pytest.mark.parametrize(
    "unit", [b" ", b"\t", b"\r\n", b" \r\n", b"a ", b" " * 998 + b"a\r\n", b"a" + b" " * 997 + b"\r\n"]
)
def test_no_piece_is_larger_than_a_chunk_whatever_the_body_holds(unit: bytes) -> None:
    # Memory: what is given out at once, and so what is held at once, is bounded by the chunk and not by the body.
    body = unit * (5 * CHUNK // len(unit)) + b"end\r\n"
    assert max(map(len, relaxed_body(chunked(memoryview(body))))) <= CHUNK + 2


class Counted(bytes):
    """Bytes that count how many octets the passes over them read."""

    read = 0

    def replace(self, *args: object) -> Counted:  # type: ignore[override]
        Counted.read += len(self)
        return Counted(super().replace(*args))  # type: ignore[arg-type]

    def translate(self, *args: object) -> Counted:  # type: ignore[override]
        Counted.read += len(self)
        return Counted(super().translate(*args))  # type: ignore[arg-type]

    def __contains__(self, wanted: object) -> bool:
        Counted.read += len(self)
        return super().__contains__(wanted)  # type: ignore[operator]

    def __radd__(self, before: bytes) -> Counted:
        return Counted(before + bytes(self))


@pytest.mark.parametrize(
    "line", [b" " * 998 + b"\r\n", b"a " * 499 + b"\r\n", b"\r\n", b"\t" * 500 + b"a" * 498 + b"\r\n"]
)
@pytest.mark.parametrize("octets", [CHUNK // 4, CHUNK])  # within a piece, and over pieces
def test_the_cost_is_linear(line: bytes, octets: int) -> None:
    def cost(octets: int) -> int:
        Counted.read = 0
        body = line * (octets // len(line))
        for _ in relaxed_body(Counted(body[at : at + CHUNK]) for at in range(0, len(body), CHUNK)):
            pass
        return Counted.read

    assert 0 < cost(4 * octets) < 6 * cost(octets)

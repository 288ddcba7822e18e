"""What octets may be called a message, and how they are repaired where that is allowed."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import reply
from relay.accept import wire

OCTETS = st.binary(max_size=64) | st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"a", b"."])).map(b"".join)


CLEAN = b"a line of a large message\r\n" * (wire.SMALL // 25)


@pytest.mark.parametrize("before", [b"", CLEAN], ids=["small", "large"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", None),
        (b"a\r\n", None),
        (b"\r\n\r\n", None),
        (b"a\0b\r\n", reply.NUL_OCTET),
        (b"a\nb\r\n", reply.BARE_NEWLINE),
        (b"a\rb\r\n", reply.BARE_NEWLINE),
        (b"a\n\rb\r\n", reply.BARE_NEWLINE),
        (b"a\r\r\n", reply.BARE_NEWLINE),
        (b"a\r\n\n", reply.BARE_NEWLINE),
        (b"\n\r\n\r", reply.BARE_NEWLINE),
    ],
)
def test_nul_and_bare_newlines_are_found(before: bytes, content: bytes, problem: reply.Reply | None) -> None:
    assert wire.problem(before + content) is problem


def test_a_large_message_is_not_copied_to_be_looked_at() -> None:
    tracemalloc.start()
    wire.problem(CLEAN)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


@given(OCTETS)
def test_the_counts_agree_with_reading_octet_by_octet(content: bytes) -> None:
    bare = any(
        (octet == 13 and content[at + 1 : at + 2] != b"\n") or (octet == 10 and (at == 0 or content[at - 1] != 13))
        for at, octet in enumerate(content)
    )
    expected = reply.NUL_OCTET if b"\0" in content else reply.BARE_NEWLINE if bare else None
    assert wire.problem(content) is expected


@given(OCTETS)
def test_normalized_is_clean_but_for_nul_and_loses_no_text(content: bytes) -> None:
    clean = wire.normalize(content)
    assert wire.problem(clean) in (None, reply.NUL_OCTET)
    assert re.split(rb"\r\n|\r|\n", content) == clean.split(b"\r\n")
    assert wire.normalize(clean) == clean


@pytest.mark.parametrize(("length", "refused"), [(0, False), (998, False), (999, True), (5000, True)])
@pytest.mark.parametrize("before", [b"", b"Subject: x\r\n\r\n", (b"x" * 998 + b"\r\n") * 3, b"\r\n" * 2000])
@pytest.mark.parametrize("after", [b"", b"y\r\n" * 700])
def test_a_line_has_at_most_998_octets(before: bytes, length: int, refused: bool, after: bytes) -> None:
    found = wire.long_line(before + b"x" * length + b"\r\n" + after)
    assert found is (reply.LONG_LINE if refused else None)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.integers(990, 3100).map(lambda n: b"x" * n),
            st.integers(400, 1500).map(lambda n: ("ä€𝄞 "[: n % 4 + 1] * n).encode()),
        ).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")),
        max_size=6,
    )
)
def test_folding_shortens_lines_and_takes_nothing_away(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    folded = wire.fold(content)
    assert wire.long_line(folded) is None
    assert wire.fold(folded) == folded
    if wire.long_line(content) is None:
        assert folded == content
    # Taking out what was put in gives the original: each fold is CRLF SP.
    kept = iter(folded.split(b"\r\n"))
    for line in lines:
        piece = bytes(next(kept))
        while piece != line:
            addition = bytes(next(kept))
            assert addition.startswith(b" ")
            piece += addition[1:]
            assert len(piece) <= len(line)


@given(st.integers(990, 1010), st.sampled_from(["ä", "€", "𝄞"]))
def test_a_fold_never_stands_inside_a_character(length: int, character: str) -> None:
    folded = wire.fold(("x" * length + character * 400 + "\r\n").encode())
    for line in folded.split(b"\r\n"):
        line.decode("utf-8")

"""The tokens of structured header fields."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.lexical import MAX_DEPTH, Kind, tokens, unfold

A, D, Q, L, C, S, X, B = (
    Kind.ATOM, Kind.DOT, Kind.QUOTED, Kind.LITERAL, Kind.COMMENT, Kind.SPACE, Kind.SPECIAL, Kind.BROKEN,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a.b", [(A, "a"), (D, "."), (A, "b")]),
        ("<a@b>;", [(X, "<"), (A, "a"), (X, "@"), (A, "b"), (X, ">"), (X, ";")]),
        (" \t x", [(S, " \t "), (A, "x")]),
        # RFC 5322 §3.2.4: quoted strings and quoted pairs
        ('"a \\" b"c', [(Q, '"a \\" b"'), (A, "c")]),
        ('"" ""', [(Q, '""'), (S, " "), (Q, '""')]),
        # §3.2.2: comments nest, quotes in them mean nothing
        ('(a (b) ") \\) c)d', [(C, '(a (b) ")'), (S, " "), (B, "\\) c)d")]),
        ("(a \\) \\( b)", [(C, "(a \\) \\( b)")]),
        # §3.4.1
        ("[192.0.2.1]", [(L, "[192.0.2.1]")]),
        # RFC 6532 §3.2
        ("Jörg", [(A, "Jörg")]),
        # left open, closed twice, controls: the rest is broken
        ('a "b', [(A, "a"), (S, " "), (B, '"b')]),
        ("a (b", [(A, "a"), (S, " "), (B, "(b")]),
        ("a)b", [(A, "a"), (B, ")b")]),
        ("[a", [(B, "[a")]),
        ("a]", [(A, "a"), (B, "]")]),
        ("a\x00b", [(A, "a"), (B, "\x00b")]),
        ('"a\rb"', [(B, '"a\rb"')]),
        ("(a\nb)", [(B, "(a\nb)")]),
        ("a\\b", [(A, "a"), (B, "\\b")]),
        ('"a\\', [(B, '"a\\')]),
        ('"a\\"', [(B, '"a\\"')]),
        ("(a\\)", [(B, "(a\\)")]),
    ],
)
def test_tokens(text: str, expected: list[tuple[Kind, str]]) -> None:
    assert list(tokens(text)) == expected


def test_comments_nest_as_deep_as_said_and_no_deeper() -> None:
    deep = "(" * MAX_DEPTH + ")" * MAX_DEPTH
    assert [token.kind for token in tokens(deep)] == [Kind.COMMENT]
    assert [token.kind for token in tokens(f"({deep})")] == [Kind.BROKEN]


@given(st.text(alphabet='a. \t"()<>@,:;[]\\\x00\x7fé=?', max_size=60))
def test_tokens_together_are_the_text_and_only_the_last_is_broken(text: str) -> None:
    found = list(tokens(text))
    assert "".join(token.text for token in found) == text
    assert all(token.text for token in found)
    assert all(token.kind is not Kind.BROKEN for token in found[:-1])


@pytest.mark.parametrize(
    "unit", ["(", "()", "(()", "(a\\", '"', '""', '"\\', "\\", "a", "a ", "[", "[]", ".", "@", ")("]
)
def test_four_times_the_text_costs_less_than_six_times_the_calls(unit: str) -> None:
    def cost(length: int) -> int:
        calls = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            for _ in tokens(unit * length):
                pass
        finally:
            sys.setprofile(None)
        return calls

    assert cost(4000) < 6 * cost(1000)


def test_unfold() -> None:
    assert unfold(b" a\r\n\tb\r\n  c") == b" a\tb  c"  # RFC 5322 §2.2.3

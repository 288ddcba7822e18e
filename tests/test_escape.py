"""Whatever a stranger writes stays on its line and steers no terminal."""

from __future__ import annotations

import json
import re
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.escape import escape, quote, quote_all


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, Grüße, 郵便", "plain text, Grüße, 郵便"),
        ("a\nb\r\tc", "a\\u000ab\\u000d\\u0009c"),
        ("\x00\x7f\x85", "\\u0000\\u007f\\u0085"),
        ("\x1b[31mred\x1b[0m", "\\u001b[31mred\\u001b[0m"),
        ("\x9b31m", "\\u009b31m"),  # the one-octet CSI
        ("exe.\u202egnp", "exe.\\u202egnp"),  # right-to-left override
        ("\u2066x\u2069\u200b\ufeff", "\\u2066x\\u2069\\u200b\\ufeff"),  # isolates, zero-width space, BOM
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),  # what str.splitlines would break at
        ("\U000e0041", "\\udb40\\udc41"),  # a tag character, beyond U+FFFF
        ("\ud800", "\\ud800"),
        ("%s {0} ${x}", "%s {0} ${x}"),
    ],
)
def test_unprintable_characters_are_written_out(text: str, shown: str) -> None:
    assert escape(text) == shown


ANY = st.text(st.characters() | st.sampled_from('\n\r\x1b\x9b\u202e\u2028\x7f"\\= ')) | st.text(
    st.characters(categories=["Cs", "Cc", "Cf"])
)


@given(ANY)
def test_nothing_unprintable_is_left(text: str) -> None:
    assert escape(text).isprintable()
    assert quote(text).isprintable()


@given(ANY.filter(lambda text: not re.search("[\ud800-\udbff][\udc00-\udfff]", text)))  # a pair is read as one
def test_a_quoted_value_can_be_read_back(text: str) -> None:
    quoted = quote(text)
    assert (json.loads(quoted) if quoted.startswith('"') else quoted) == text
    assert quoted.startswith('"') or not set(quoted) & set(' "=\\')


class Word(StrEnum):
    PASS = "pass"
    TWO = "two words"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("one", "one"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('"', '"\\""'),
        (12, "12"),
        (12.5, "12.5"),
        (1e300, "1e+300"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Word.PASS, "pass"),
        (Word.TWO, '"two words"'),
        (True, "true"),
        (None, "null"),
        (["a@b.c", "\n"], '["a@b.c", "\\n"]'),
        ({"x": "\x7f"}, '{"x": "\\u007f"}'),
    ],
)
def test_values_are_words_or_json(value: object, written: str) -> None:
    assert quote(value) == written
    assert quote_all({"a": value, "b%": 1}) == f" a={written} b%=1"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | ANY, st.lists, max_leaves=5))
def test_what_is_no_word_is_written_as_json_writes_it(value: object) -> None:
    shown = escape(json.dumps(value, ensure_ascii=False))
    assert quote(value) in (shown, value)

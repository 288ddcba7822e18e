"""Foreign text made fit for one line of a log or a terminal.

What is not printable (controls, line and paragraph separators, bidi controls, zero-width characters,
lone surrogates) is written as JSON writes it, `\\u202e`: it can end no line, hide nothing and steer no terminal.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isfinite
from types import NoneType
from typing import Any

_write = json.JSONEncoder(ensure_ascii=False, default=str).encode
_PLAIN = re.compile(r"[A-Za-z0-9_.@:/<>+,;()\[\]{}*!?#$%&'|~^-]+\Z")
_KEPT = 2048  # texts: the ids, addresses and words of some hundred facts


def escape(text: str) -> str:
    """`text` with everything unprintable as `\\uXXXX` (beyond U+FFFF as two of them)."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _code(char) for char in text)


def quote(value: object) -> str:
    """A plain ASCII word as it is, everything else as JSON without unprintable characters."""
    return _WRITERS[type(value)](value)


def quote_all(values: Mapping[str, object]) -> str:
    """` key=value` of each, quoted. The keys are words of our own."""
    return "".join([f" {key}={_WRITERS[type(value)](value)}" for key, value in values.items()])


@lru_cache(_KEPT)
def _text(text: str) -> str:
    return text if _PLAIN.match(text) else _as_json(text)


def _float(number: float) -> str:
    return repr(number) if isfinite(number) else _as_json(number)


def _list(values: list[object]) -> str:
    return f"[{', '.join([_text_as_json(one) if type(one) is str else _as_json(one) for one in values])}]"


def _as_json(value: object) -> str:
    return escape(_write(value))


_text_as_json: Callable[[str], str] = lru_cache(_KEPT)(_as_json)


def _other(value: object) -> str:
    return _text(value) if isinstance(value, str) else _as_json(value)  # a word of an enumeration


# By type. The JSON encoder takes 2 µs to get ready for anything but a text: what facts mostly have goes without it.
_WRITERS: defaultdict[type, Callable[[Any], str]] = defaultdict(
    lambda: _other,
    {str: _text, int: str, float: _float, list: _list, NoneType: lambda _: "null"},
)


def _code(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))

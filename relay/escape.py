"""Foreign text made fit for one line of a log or a terminal.

What is not printable (controls, line and paragraph separators, bidi controls, zero-width characters,
lone surrogates) is written as JSON writes it, `\\u202e`: it can end no line, hide nothing and steer no terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache

_write = json.JSONEncoder(ensure_ascii=False, default=str).encode
_PLAIN = re.compile(r"[A-Za-z0-9_.@:/<>+,;()\[\]{}*!?#$%&'|~^-]+\Z")
_KEPT = 2048  # texts: the ids, addresses and words of some hundred facts


def escape(text: str) -> str:
    """`text` with everything unprintable as `\\uXXXX` (beyond U+FFFF as two of them)."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _code(char) for char in text)


def quote(value: object) -> str:
    """A plain ASCII word as it is, everything else as JSON without unprintable characters."""
    if isinstance(value, str):
        return quote_text(value)
    if type(value) is int:  # the encoder takes 2 µs to get ready: what a fact mostly has is written without it
        return str(value)
    if type(value) is list:
        return f"[{', '.join([_text_as_json(one) if type(one) is str else _as_json(one) for one in value])}]"
    return "null" if value is None else _as_json(value)


@lru_cache(_KEPT)
def quote_text(text: str) -> str:
    """`quote` of a text."""
    return text if _PLAIN.match(text) else _as_json(text)


def _as_json(value: object) -> str:
    return escape(_write(value))


_text_as_json: Callable[[str], str] = lru_cache(_KEPT)(_as_json)


def _code(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))

"""Where in a TOML text a key stands; tomllib does not say."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]")
_SETTING = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=[ \t]*(.*)")
_PARTS = re.compile(_PART)
_TRIPLE = re.compile(r'"""|' + "'''")

Key = tuple[str, ...]


class Places:
    """The lines of a TOML text that tomllib has read without complaint."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Key, int] = {}
        for key, line in _keys(text):
            for depth in range(1, len(key) + 1):
                self._lines.setdefault(key[:depth], line)

    def line(self, key: Key) -> int:
        """The line of `key`, a table's or a value's; 0 if it does not stand there by itself."""
        return self._lines.get(key, 0)


def _keys(text: str) -> Iterator[tuple[Key, int]]:
    table: Key = ()
    closing = ""  # the quotes that end the multi-line string we are in
    for number, line in enumerate(text.split("\n"), 1):
        if closing:
            if closing in line:
                closing = ""
            continue
        if header := _HEADER.match(line):
            table = _split(header[1])
            yield table, number
        elif setting := _SETTING.match(line):
            yield table + _split(setting[1]), number
            opened = _TRIPLE.match(setting[2])
            if opened and opened[0] not in setting[2][3:]:
                closing = opened[0]


def _split(dotted: str) -> Key:
    return tuple(part if part[0] not in "\"'" else part[1:-1] for part in _PARTS.findall(dotted))

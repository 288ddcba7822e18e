"""A message as bytes: the header in one piece, its fields found when somebody asks, the body a view never copied.

Nothing here re-serialises: what was not removed goes out as it came in (promise 4).

STANDARDS  RFC 5322 §2.1, §2.2 (fields, folding, the blank line), RFC 6532 (UTF-8 in fields).
TRUSTS     that line endings are already CRLF only (`accept/wire.py` saw to it).
FAILS      MalformedMessage: a line in the header that is no field, a header past its limits,
           or a first line that begins with white space (a field we prepend would swallow it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from relay.errors import MalformedMessage

MAX_HEADER = 256 * 1024  # octets
MAX_FIELDS = 1000
CHUNK = 256 * 1024  # octets in one piece of `chunks()`

# RFC 5322 §2.2, and the white space before the colon that §4.5 once allowed. A field, folds and all, is a name and
# what is behind it, in which no bare CR stands. Never matched on more than MAX_HEADER octets: folds take memory.
_NAME, _BEHIND = rb"[!-9;-~]+", rb"[ \t]*:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*"
_FIELD = re.compile(b"((%s)%s)" % (_NAME, _BEHIND))
_HEADER = re.compile(b"(?:%s%s)*" % (_NAME, _BEHIND))
_UNENDED = re.compile(rb"(?:[ \t]|%s[ \t]*:)[^\r\n]*\r?\Z" % _NAME)  # a line of a field, its CRLF out of sight


class Field(NamedTuple):
    """name: lower case. raw: the whole field as it stands, folds and final CRLF included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """Behind the colon, folds kept, final CRLF off."""
        return self.raw.partition(b":")[2][:-2]


@dataclass(slots=True)  # not frozen: two or three are made of each message, and that would take four times as long
class Message:
    """header: all fields, each with its CRLF. separator: the blank line, b"" if there was none. Nobody changes it."""

    header: bytes
    separator: bytes
    body: memoryview
    _fields: tuple[Field, ...] | None = field(default=None, init=False, repr=False, compare=False)
    _lower: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, content: bytes | bytearray | memoryview) -> Message:
        """Find the header and the body of `content`, whose lines end with CRLF.

        A message whose first line is no field has no header: all of it is body.
        The body is a view on `content`. Raises MalformedMessage.
        """
        view = memoryview(content)
        if bytes(view[:1]) in (b" ", b"\t"):
            raise MalformedMessage("the message begins with white space")
        found = _HEADER.match(content, 0, MAX_HEADER)
        header = found[0] if found else b""
        at = len(header)
        is_blank = bytes(view[at : at + 2]) == b"\r\n"
        is_cut = not is_blank and len(view) > MAX_HEADER and _UNENDED.match(content, at, MAX_HEADER)
        count = _count(header)
        if is_cut or count > MAX_FIELDS:
            raise MalformedMessage(f"the header has more than {MAX_FIELDS} fields or {MAX_HEADER} octets")
        if header and not (count and (is_blank or at == len(view))):
            raise MalformedMessage("a line of the header is not a header field")
        if is_blank:
            return cls(header, b"\r\n", view[at + 2 :])
        return cls(header, b"" if header else b"\r\n", view[at:])

    @property
    def fields(self) -> tuple[Field, ...]:
        """In order of appearance."""
        if self._fields is None:
            self._fields = tuple([Field(name.lower(), raw) for raw, name in _FIELD.findall(self.header)])
        return self._fields

    @property
    def size(self) -> int:
        """Octets, as SIZE counts them (RFC 1870 §3): before dot-stuffing."""
        return len(self.header) + len(self.separator) + len(self.body)

    def mentions(self, *names: bytes) -> bool:
        """Whether one of `names` (lower case) stands in the header, as the name of a field or anywhere: a quick no."""
        if self._lower is None:
            self._lower = self.header.lower()
        return any(map(self._lower.__contains__, names))

    def all(self, name: bytes) -> list[Field]:
        """The fields called `name` (lower case), from the top."""
        return [found for found in self.fields if found.name == name] if self.mentions(name) else []

    def prepend(self, *raw: bytes) -> Message:
        """The message with whole fields (each with its CRLF) put on top, the first one topmost."""
        return Message(_whole(raw) + self.header, self.separator, self.body)

    def append(self, *raw: bytes) -> Message:
        """The message with whole fields put below its others."""
        return Message(self.header + _whole(raw), self.separator, self.body)

    def with_fields(self, fields: Iterable[Field]) -> Message:
        """The message with `fields` in place of its own."""
        return Message(b"".join([found.raw for found in fields]), self.separator, self.body)

    def without(self, unwanted: Callable[[Field], bool]) -> Message:
        """The message without the fields for which `unwanted` holds; itself if there are none."""
        kept = [found for found in self.fields if not unwanted(found)]
        return self if len(kept) == len(self.fields) else self.with_fields(kept)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The message in pieces, for writing it out without a second copy; a small one in one piece."""
        yield b"".join((self.header, self.separator, self.body[:CHUNK]))
        for at in range(CHUNK, len(self.body), CHUNK):
            yield self.body[at : at + CHUNK]

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks())


def _whole(raw: tuple[bytes, ...]) -> bytes:
    """The fields in one piece, when each of them is one."""
    header = b"".join(raw)
    if not _HEADER.fullmatch(header) or _count(header) != len(raw):
        raise ValueError(f"not a header field: {header[:60]!r}")
    return header


def _count(header: bytes) -> int:
    """How many fields there are, which is how many lines are no folds; 0 where a bare LF stands among them."""
    lines = header.count(b"\r\n")
    if header.count(b"\n") != lines:
        return 0
    return lines - header.count(b"\r\n ") - header.count(b"\r\n\t")

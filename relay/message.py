"""A message as bytes: header fields found once, the body a view that is never copied.

Nothing here re-serialises: what was not removed goes out as it came in (promise 4).

STANDARDS  RFC 5322 §2.1, §2.2 (fields, folding, the blank line), RFC 6532 (UTF-8 in fields).
TRUSTS     that line endings are already CRLF only (`accept/wire.py` saw to it).
FAILS      MalformedMessage: a line in the header that is no field, a header past its limits,
           or a first line that begins with white space (a field we prepend would swallow it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from relay.errors import MalformedMessage

MAX_HEADER = 256 * 1024  # octets
MAX_FIELDS = 1000
CHUNK = 256 * 1024  # octets in one piece of `chunks()`

# RFC 5322 §2.2, and the white space before the colon that §4.5 once allowed. One field, folds and all.
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")


class Field(NamedTuple):
    """name: lower case. raw: the whole field as it stands, folds and final CRLF included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """Behind the colon, folds kept, final CRLF off."""
        return self.raw.partition(b":")[2][:-2]


@dataclass(frozen=True, slots=True)
class Message:
    """fields: in order of appearance. separator: the blank line, b"" if there was none."""

    fields: tuple[Field, ...]
    separator: bytes
    body: memoryview

    @classmethod
    def parse(cls, content: bytes | bytearray | memoryview) -> Message:
        """Find the fields and the body of `content`, whose lines end with CRLF.

        A message whose first line is no field has no header: all of it is body.
        The body is a view on `content`. Raises MalformedMessage.
        """
        view = memoryview(content)
        if bytes(view[:1]) in (b" ", b"\t"):
            raise MalformedMessage("the message begins with white space")
        fields, at = [], 0
        while found := _FIELD.match(view, at):
            raw, name = found.group(0, 1)
            fields.append(Field(name.lower(), raw))
            at += len(raw)
            if at > MAX_HEADER or len(fields) > MAX_FIELDS:
                raise MalformedMessage(f"the header has more than {MAX_FIELDS} fields or {MAX_HEADER} octets")
        if bytes(view[at : at + 2]) == b"\r\n":
            return cls(tuple(fields), b"\r\n", view[at + 2 :])
        if fields and at < len(view):
            raise MalformedMessage("a line of the header is not a header field")
        return cls(tuple(fields), b"" if fields else b"\r\n", view[at:])

    @property
    def header(self) -> bytes:
        """All fields, without the blank line."""
        return b"".join([found.raw for found in self.fields])

    @property
    def size(self) -> int:
        """Octets, as SIZE counts them (RFC 1870 §3): before dot-stuffing."""
        return len(self.header) + len(self.separator) + len(self.body)

    def all(self, name: bytes) -> list[Field]:
        """The fields called `name` (lower case), from the top."""
        return [found for found in self.fields if found.name == name]

    def prepend(self, *raw: bytes) -> Message:
        """The message with whole fields (each with its CRLF) put on top, the first one topmost."""
        return Message((*map(_field, raw), *self.fields), self.separator, self.body)

    def append(self, *raw: bytes) -> Message:
        """The message with whole fields put below its others."""
        return Message((*self.fields, *map(_field, raw)), self.separator, self.body)

    def without(self, unwanted: Callable[[Field], bool]) -> Message:
        """The message without the fields for which `unwanted` holds; itself if there are none."""
        kept = tuple([found for found in self.fields if not unwanted(found)])
        return self if len(kept) == len(self.fields) else Message(kept, self.separator, self.body)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The message in pieces, for writing it out without a second copy; a small one in one piece."""
        yield b"".join((self.header, self.separator, self.body[:CHUNK]))
        for at in range(CHUNK, len(self.body), CHUNK):
            yield self.body[at : at + CHUNK]

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks())


def _field(raw: bytes) -> Field:
    found = _FIELD.fullmatch(raw)
    if found is None:
        raise ValueError(f"not a header field: {raw[:60]!r}")
    return Field(found[1].lower(), raw)

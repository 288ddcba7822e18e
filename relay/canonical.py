"""What DKIM hashes in place of the bytes themselves: the `relaxed` and `simple` forms of a field and of a body.

Signing and verifying share it. The cost is linear whatever the body holds (ten million spaces, ten
million empty lines), and of a large body no more than one chunk is ever copied.

STANDARDS  RFC 6376 §3.4.1, §3.4.3 (simple), §3.4.2, §3.4.4 (relaxed).
TRUSTS     that lines end with CRLF only (`accept/wire.py` saw to it).
FAILS      never: every sequence of bytes has a canonical form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relay.message import CHUNK, Field

_TAB_TO_SPACE = bytes.maketrans(b"\t", b" ")
_WHITE = b" \t\r\n"
_EMPTY_LINES = b"\r\n" * (CHUNK // 2)


def relaxed_field(raw: bytes) -> bytes:
    """RFC 6376 §3.4.2, without the CRLF at the end: `Subject : a \\r\\n\\tb\\r\\n` becomes `subject:a b`."""
    name, _, value = raw.partition(b":")
    return name.rstrip(b" \t").lower() + b":" + _collapse(value.replace(b"\r\n", b"")).strip(b" ")


def relaxed_header(fields: Iterable[Field]) -> bytes:
    """What `relaxed_field` makes of each, a CRLF behind each; done for all of them in one go."""
    text = b"".join([b"%s:%s\r\n" % (name, raw.partition(b":")[2].strip(_WHITE)) for name, raw in fields])
    # Behind a CRLF that stays comes a name, for no value ends with white space here.
    return _collapse(text.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" "))


def simple_field(raw: bytes) -> bytes:
    """RFC 6376 §3.4.1, without the CRLF at the end: nothing else changes."""
    return raw.removesuffix(b"\r\n")


def chunked(body: memoryview) -> Iterator[memoryview]:
    """The body in views of at most CHUNK octets."""
    for at in range(0, len(body), CHUNK):
        yield body[at : at + CHUNK]


def relaxed_body(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """RFC 6376 §3.4.4, piece by piece: together, the canonical form of all `pieces` together.

    A body that does not end with CRLF gets one, as it will in SMTP.
    """
    held = b""  # the end of what came: " ", "\r" or " \r", whose fate the next piece decides
    empty = 0  # line ends behind the last text, not given out yet: at the end of the body they go
    begun = False
    for piece in pieces:
        lines = _collapse(held + piece).replace(b" \r\n", b"\r\n")
        text = lines.rstrip(b" \r\n")
        if text:
            while empty:
                yield _EMPTY_LINES[: 2 * empty]
                empty -= min(empty, CHUNK // 2)
            yield text
            begun = True
        tail = lines[len(text) :]
        ends = tail.count(b"\r\n")
        empty += ends
        held = tail[2 * ends :]
    if begun:
        yield b"\r\n"


def simple_body(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """RFC 6376 §3.4.3, piece by piece: one CRLF at the end of the body, and no more; also of an empty one."""
    held = b""  # a "\r" at the end of a piece: the next one tells whether a line ends there
    empty = 0
    for piece in pieces:
        lines = held + bytes(piece)
        text = lines.rstrip(b"\r\n")
        if text:
            while empty:
                yield _EMPTY_LINES[: 2 * empty]
                empty -= min(empty, CHUNK // 2)
            yield text
        tail = lines[len(text) :]
        ends = len(tail) // 2
        empty += ends
        held = tail[2 * ends :]
    yield b"\r\n"


def _collapse(text: bytes) -> bytes:
    """Runs of white space as one space, in at most log2(len(text)) passes."""
    if b"\t" in text:
        text = text.translate(_TAB_TO_SPACE)
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text

"""The replies of a next hop, cut out of a stream of octets. No I/O here.

STANDARDS  RFC 5321 §4.2 (Reply-line), §4.2.1 (multi-line replies), §4.5.3.1.5 (512 octets a line).
TRUSTS     nothing. Only CRLF ends a line; a bare CR, a bare LF, NUL, a code outside 2xx to 5xx, or
           a code that changes within a reply is no SMTP.
FAILS      `problem` says what is wrong; whatever comes after it is not read. What is buffered
           never exceeds one line and the lines of one reply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

# We differ: §4.5.3.1.5 says 512. Real refusals with a long text are longer, and taken for junk
# they would be tried again for ever. What a client hears of them is capped in `reply.from_hop`.
MAX_LINE = 2048
MAX_LINES = 100  # one reply; the longest EHLO answers have about 20

# RFC 5321 §4.2: %x32-35 %x30-35 %x30-39. A bare code is allowed, with and without its space.
_LINE = re.compile(rb"([2-5][0-5][0-9])(?:([ -])([^\r\n\0]*))?\r\n")
_WHOLE = re.compile(rb"(?:[2-5][0-5][0-9](?: [^\r\n\0]*)?\r\n)+")


class HopReply(NamedTuple):
    """lines: the text of each line, without code, separator and CRLF."""

    code: int
    lines: tuple[bytes, ...]


class ReplyReader:
    """Feed it what arrives, in any slices; it returns the replies that became complete."""

    def __init__(self) -> None:
        self.problem = ""
        self._buffer = b""
        self._code = b""
        self._lines: list[bytes] = []

    @property
    def is_between_replies(self) -> bool:
        """Nothing half-read is held, and nothing was wrong."""
        return not (self._buffer or self._lines or self.problem)

    def feed(self, data: bytes) -> Sequence[HopReply]:
        if self.is_between_replies and (whole := _whole(data)):
            return whole
        if self.problem:
            return []
        buffer = self._buffer + data if self._buffer else data
        replies: list[HopReply] = []
        at = 0
        while line := _LINE.match(buffer, at):
            end = line.end()
            if end - at > MAX_LINE:
                break
            code, separator, text = line.groups(b"")
            if self._lines and code != self._code:  # RFC 5321 §4.2.1: the same code in each line
                self.problem = "the code changes within a reply"
                break
            at = end
            self._code = code
            self._lines.append(text)
            if separator != b"-":
                replies.append(HopReply(int(code), tuple(self._lines)))
                self._lines = []
            elif len(self._lines) >= MAX_LINES:
                self.problem = f"a reply of more than {MAX_LINES} lines"
                break
        self._buffer = buffer[at:]
        if self._buffer and not self.problem:
            self.problem = self._fault_in_rest()
        if self.problem:
            self._buffer, self._lines = b"", []
        return replies

    def _fault_in_rest(self) -> str:
        """What is wrong with the line that did not match; "" if it is only not all here yet."""
        if len(self._buffer) > MAX_LINE:
            return f"a reply line of more than {MAX_LINE} octets"
        if b"\n" in self._buffer:
            return "not an SMTP reply"
        return ""


@lru_cache(256)  # to MAIL, RCPT and DATA a hop nearly always says the same
def _whole(data: bytes) -> tuple[HopReply, ...]:
    """The replies in `data`, if each of them is one line and all of it is here; else none."""
    if len(data) > MAX_LINE or not _WHOLE.fullmatch(data):
        return ()
    return tuple([HopReply(int(line[:3]), (line[4:],)) for line in data.split(b"\r\n")[:-1]])


def extensions(reply: HopReply) -> dict[str, str]:
    """What a reply to EHLO or LHLO offers (RFC 5321 §4.1.1.1): keyword in lower case, to its parameters."""
    lines = (line.decode("ascii", "replace").strip().partition(" ") for line in reply.lines[1:])
    return {keyword.lower(): parameters for keyword, _, parameters in lines if keyword}

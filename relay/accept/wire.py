"""What octets may be called a message: line endings, NUL, line length. Pure.

STANDARDS  RFC 5321 §2.3.8 (only CRLF ends a line), §4.5.3.1.6 (1000 octets a line);
           RFC 5322 §2.1.1 (998 without CRLF); RFC 6532 §3.4 (octets, not characters).
TRUSTS     that the final dot was CRLF.CRLF and that dots are unstuffed (`data.py`).
FAILS      `problem` and `long_line` give the Reply that refuses the message. What is refused is
           never repaired first: a receiver that repairs reads another message than we did.
"""

from __future__ import annotations

import re

from relay import reply
from relay.reply import Reply

MAX_LINE = 998  # octets without CRLF
SMALL = 1024 * 1024  # octets of a message that may be copied to be looked at

Content = bytes | bytearray

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def problem(content: Content) -> Reply | None:
    """NUL, bare CR or bare LF in `content`, None if there is none. Some scans at memory speed."""
    if 0 in content:
        return reply.NUL_OCTET
    if len(content) < SMALL:  # quicker than to count, and costs a copy
        rest = content.replace(b"\r\n", b"  ")
        is_bare = b"\r" in rest or b"\n" in rest
    else:
        is_bare = content.count(b"\r") + content.count(b"\n") != 2 * content.count(b"\r\n")
    return reply.BARE_NEWLINE if is_bare else None


def normalize(content: Content) -> bytearray:
    """`content` with every bare CR and bare LF made a CRLF; NUL stays, to be refused."""
    return bytearray(_BARE.sub(b"\r\n", content))


def long_line(content: Content) -> Reply | None:
    """A line of more than 998 octets in `content`, whose lines end with CRLF; None if there is none."""
    return None if _long_line_at(content, 0) < 0 else reply.LONG_LINE


def fold(content: Content) -> bytearray:
    """`content` with CRLF SP put into lines over 998 octets, never inside a UTF-8 sequence.

    Where a space stands in the last octets that fit, the line breaks before it.
    """
    at = _long_line_at(content, 0)
    if at < 0:
        return bytearray(content)
    folded, done = bytearray(), 0
    while at >= 0:
        end = content.find(b"\r\n", at)
        folded += content[done:at]
        folded += _fold_line(bytes(content[at:end]))
        done = end
        at = _long_line_at(content, end + 2)
    return folded + content[done:]


def _long_line_at(content: Content, at: int) -> int:
    """Where the first line that is too long begins, from the line start `at` on; -1 if nowhere.

    Steps from the last LF within reach to the next, so most lines are never looked at.
    """
    end = len(content)
    while end - at > MAX_LINE:
        newline = content.rfind(b"\n", at, at + MAX_LINE + 2)
        if newline < 0:
            return at
        at = newline + 1
    return -1


def _fold_line(line: bytes) -> bytes:
    pieces, room = [], MAX_LINE
    while len(line) > room:
        cut = line.rfind(b" ", room // 2, room + 1)
        if cut < 0:
            cut = room
            while line[cut] & 0xC0 == 0x80 and cut > room - 4:  # UTF-8 continuation octets
                cut -= 1
        pieces.append(line[:cut])
        line, room = line[cut:], MAX_LINE - 1  # the next piece begins with our space
    return b"\r\n ".join([*pieces, line])

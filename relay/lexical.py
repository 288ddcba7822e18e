"""The tokens of a structured header field: what From, Received and Authentication-Results are made of.

STANDARDS  RFC 5322 §3.2 (atoms, quoted strings, comments, white space), §3.4.1 (domain literals),
           RFC 6532 §3.2 (UTF-8 wherever an atom, a quoted string or a comment may stand).
TRUSTS     nothing: unfolded text of a stranger.
FAILS      never: from the first place that is no token on, all the rest is one BROKEN token, the last.
           Each character is looked at a bounded number of times, and comments nest without recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

MAX_DEPTH = 16  # of comments in comments; mail has two


class Kind(StrEnum):
    ATOM = "atom"
    DOT = "dot"
    QUOTED = "quoted"  # a quoted string, quotes and backslashes kept
    LITERAL = "literal"  # [ … ], brackets kept
    COMMENT = "comment"  # ( … ), whatever nests in it included
    SPACE = "space"
    SPECIAL = "special"  # one of < > @ , : ;
    BROKEN = "broken"


class Token(NamedTuple):
    kind: Kind
    text: str


_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
      | (?P<atom>[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+)
      | (?P<dot>\.)
      | (?P<quoted>"[^"\\\x00-\x08\x0a-\x1f\x7f]*(?:\\[\t -~\u0080-\U0010ffff][^"\\\x00-\x08\x0a-\x1f\x7f]*)*")
      | (?P<literal>\[[!-Z^-~\u0080-\U0010ffff]*\])
      | (?P<special>[<>@,:;])
    """,
    re.VERBOSE,
)
_COMMENT_PART = re.compile(r"[^()\\\x00-\x08\x0a-\x1f\x7f]+|\\[\t -~\u0080-\U0010ffff]|[()]")


_KINDS = {kind.value: kind for kind in Kind}


def tokens(text: str) -> Iterator[Token]:
    """The tokens of an unfolded field value, in order; their texts together are `text`."""
    at = 0
    while at < len(text):
        if text[at] == "(":
            end = _comment_end(text, at)
            kind = Kind.COMMENT
        else:
            found = _TOKEN.match(text, at)
            end = found.end() if found else 0
            kind = _KINDS[found.lastgroup or ""] if found else Kind.BROKEN
        if not end:
            yield Token(Kind.BROKEN, text[at:])
            return
        yield Token(kind, text[at:end])
        at = end


def unfold(value: bytes) -> bytes:
    """A field's value with its folds undone (RFC 5322 §2.2.3): the CRLF goes, the white space stays."""
    return value.replace(b"\r\n", b"")


def _comment_end(text: str, at: int) -> int:
    """The index behind the comment that opens at `at`; 0 when it does not close or nests too deep."""
    depth = 0
    while found := _COMMENT_PART.match(text, at):
        at = found.end()
        if found[0] == "(":
            depth += 1
            if depth > MAX_DEPTH:
                return 0
        elif found[0] == ")":
            depth -= 1
            if not depth:
                return at
    return 0

"""Whether an Authentication-Results field claims to be ours. A message from outside must not carry one.

STANDARDS  RFC 8601 §2.2 (syntax), §5 (every field with our authserv-id is removed at the border).
TRUSTS     nothing: who forges a field spells our name so that we overlook it and the reader does not.
FAILS      to the safe side: a field whose authserv-id cannot be read for certain counts as claimed. It
           proves nothing to anybody, so that nothing is lost with it.
"""

from __future__ import annotations

import re

from relay.address import domain_key
from relay.lexical import Kind, Token, tokens, unfold
from relay.message import Field

MAX_NAME = 2048  # octets in front of the first ";", folds and comments included
MAX_WORDS = 32  # the same in words; the grammar has two


def claims(field: Field, authserv_id: str) -> bool:
    """Whether `field` is an Authentication-Results field that bears our `authserv_id`, however spelled.

    Case, folds, comments, quotes, A-labels or U-labels and a version make no difference (RFC 8601 §2.2).
    """
    if field.name != b"authentication-results":
        return False
    words = _name(field.value)
    # An encoded word (RFC 2047) or what is not UTF-8 has no place in it: who can say how it will be read?
    if not "".join(words) or any("=?" in word or "\ufffd" in word for word in words):
        return True
    # The words together: `mx . example` in the eyes of one that lets white space stand around dots.
    spellings = (words[0], "".join(words), "".join(words[:-1]))
    return domain_key(authserv_id) in {domain_key(spelling.rstrip(".")) for spelling in spellings}


def _name(value: bytes) -> list[str]:
    """The words in front of the first ";" (authserv-id, version); none when they cannot be read."""
    text = unfold(value[:MAX_NAME]).decode("utf-8", "replace")
    words: list[str] = []
    apart = True  # the next text begins a word
    for token in tokens(text):
        if token.kind is Kind.BROKEN or len(words) > MAX_WORDS:
            return []
        if token.text == ";":
            return words
        if token.kind in (Kind.SPACE, Kind.COMMENT):
            apart = True
        elif apart:
            words.append(_unquoted(token))
            apart = False
        else:
            words[-1] += _unquoted(token)
    return words if len(value) <= MAX_NAME else []


def _unquoted(token: Token) -> str:
    return re.sub(r"\\(.)", r"\1", token.text[1:-1]) if token.kind is Kind.QUOTED else token.text

"""Who wrote the message: the one strict reading of its From field.

Every check that speaks of "the From domain" (who may send, which key signs, later DMARC) asks here, so
that no two of them can read one field differently.

STANDARDS  RFC 5322 §3.4 (mailbox), §3.6.2 (exactly one From field), RFC 6532 (UTF-8), RFC 2047 §5 (no
           encoded word in an address). We differ: a list of several authors, a group, white space
           before the colon, a fold of white space only, and comments or spaces inside `<…>` or around
           "@" and "." are lawful and refused, for mail programs disagree on what they mean.
TRUSTS     nothing. Sender and Resent-From are never looked at.
FAILS      MalformedAddress, in words fit for the peer, when there is not exactly one addr-spec.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from relay.address import Address, parse_mailbox
from relay.errors import MalformedAddress
from relay.lexical import Kind, Token, tokens, unfold
from relay.message import Field, Message

MAX_VALUE = 8192  # octets in the value of a From field, folds included

_BLANK_FOLD = re.compile(rb"\r\n[ \t]*(?:\r\n|\Z)")
_CFWS = (Kind.SPACE, Kind.COMMENT)


def parse_author(message: Message) -> Address:
    """The one address in the one From field, as it is spelled there. Raises MalformedAddress."""
    found = message.all(b"from")
    if len(found) != 1:
        raise MalformedAddress(f"{len(found)} From fields, there must be one")
    return _read(found[0])


@lru_cache(256)  # at most 4 MB, for what is refused is not kept; our own clients write few different ones
def _read(field: Field) -> Address:
    value = field.value
    if len(value) > MAX_VALUE:
        raise MalformedAddress(f"the From field is longer than {MAX_VALUE} octets")
    if field.raw[4:5] != b":":
        raise MalformedAddress("white space stands before the colon of the From field")
    if _BLANK_FOLD.search(value):
        raise MalformedAddress("a line of the From field holds only white space")
    try:
        text = unfold(value).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedAddress("the From field is not valid UTF-8") from None
    return _parse_mailbox(text)


def _parse_mailbox(text: str) -> Address:
    """RFC 5322 §3.4: `mailbox = name-addr / addr-spec`."""
    found = list(tokens(text))
    if found and found[-1].kind is Kind.BROKEN:
        raise MalformedAddress("the From field has a control character or something left open, or nests too deep")
    specials = [token.text for token in found if token.kind is Kind.SPECIAL]
    if "," in specials or ":" in specials or ";" in specials:
        raise MalformedAddress("the From field must hold one address: no list, group or route")
    if "<" not in specials and ">" not in specials:
        return _addr_spec(_trim(found, _CFWS))
    if specials not in (["<", "@", ">"], ["<", ">"]):
        raise MalformedAddress("the From field must hold one address, in one pair of angle brackets")
    opens, closes = found.index(Token(Kind.SPECIAL, "<")), found.index(Token(Kind.SPECIAL, ">"))
    _check_phrase(_trim(found[:opens], _CFWS))
    if _trim(found[closes + 1 :], _CFWS):
        raise MalformedAddress("something follows the address of the From field")
    return _addr_spec(_trim(found[opens + 1 : closes], (Kind.SPACE,)))


def _trim(found: Sequence[Token], kinds: Sequence[Kind]) -> Sequence[Token]:
    """`found` without tokens of `kinds` at its two ends."""
    start, end = 0, len(found)
    while start < end and found[start].kind in kinds:
        start += 1
    while start < end and found[end - 1].kind in kinds:
        end -= 1
    return found[start:end]


def _check_phrase(found: Sequence[Token]) -> None:
    """The display name: RFC 5322 §4.1 `obs-phrase`, for "John Q. Public" is everywhere without its quotes."""
    if any(token.kind is Kind.LITERAL for token in found) or (found and found[0].kind is Kind.DOT):
        raise MalformedAddress("what stands before the address of the From field is not a name")


def _addr_spec(found: Sequence[Token]) -> Address:
    if any(token.kind in _CFWS for token in found):
        raise MalformedAddress("white space or a comment stands inside the address of the From field")
    address = parse_mailbox("".join(token.text for token in found).encode(), utf8=True)
    if not address.domain:
        raise MalformedAddress("the address of the From field has no domain")
    if "=?" in address.local:
        raise MalformedAddress("an encoded word stands in the address of the From field")
    return address

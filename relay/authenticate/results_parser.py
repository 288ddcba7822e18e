"""What an Authentication-Results field says, read in one pass: for results of a sealer we trust, and for tests.

STANDARDS  RFC 8601 §2.2 (grammar), §2.4 (unknown methods are ignored by who does not know them).
           We differ: a `value` may also hold what RFC 2045's token may not ("/" in header.b), for so it is written.
TRUSTS     nothing; whether the field is to be believed is another question (RFC 8601 §5).
FAILS      None when the field cannot be read for certain as a whole. A property outside the grammar is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from relay.lexical import Kind, Token, tokens, unfold

MAX_VALUE = 16 * 1024  # octets of a field's value that are looked at
MAX_RESULTS = 64
MAX_PROPERTIES = 32  # of one result

_KEYWORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?\Z")  # RFC 8601 §2.2, with the "_" people write
_CFWS = (Kind.SPACE, Kind.COMMENT)


class Property(NamedTuple):
    """`smtp.mailfrom=ann@example.org`: type and name in lower case, the value without its quotes."""

    type: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Result:
    """`dkim=pass reason="…" header.d=example.org`: method and result in lower case. version: 1 if not given."""

    method: str
    result: str
    reason: str = ""
    properties: tuple[Property, ...] = ()
    version: int = 1

    def get(self, type: str, name: str) -> str:
        """The value of a property; "" without it."""
        return next((found.value for found in self.properties if found[:2] == (type, name)), "")


@dataclass(frozen=True, slots=True)
class Results:
    authserv_id: str
    results: tuple[Result, ...]
    version: int = 1


def parse_results(value: bytes) -> Results | None:
    """The value of a field, folds and all: `mx.example.org; spf=pass smtp.mailfrom=example.net`."""
    if len(value) > MAX_VALUE:
        return None
    parts = list(_parts(unfold(value).decode("utf-8", "replace")))
    if not parts or len(parts) > MAX_RESULTS + 1:
        return None
    head = [_text(unit) for unit in _units(parts[0], joining=False)]
    if not 1 <= len(head) <= 2 or (len(head) == 2 and not _is_number(head[1])):
        return None
    version = int(head[1]) if len(head) == 2 else 1
    rest = [_units(part) for part in parts[1:]]
    if rest and not rest[-1]:  # a ";" at the end, as many write it
        rest.pop()
    if len(rest) == 1 and [_text(unit).lower() for unit in rest[0]] == ["none"]:
        return Results(head[0], (), version)
    results = [_result(units) for units in rest]
    if None in results:
        return None
    return Results(head[0], tuple(result for result in results if result), version)


def _parts(text: str) -> Iterator[list[Token]]:
    """The tokens between semicolons, comments as spaces; nothing at all for what is broken."""
    found: list[list[Token]] = [[]]
    for token in tokens(text):
        if token.kind is Kind.BROKEN:
            return
        if token == (Kind.SPECIAL, ";"):
            found.append([])
        else:
            found[-1].append(token)
    yield from found


def _units(part: list[Token], *, joining: bool = True) -> list[list[Token]]:
    """Tokens that stand together; with `joining`, also across white space around the first "=" and what precedes it.

    `spf = pass smtp . mailfrom = a@b` has the units `spf=pass` and `smtp.mailfrom=a@b`.
    """
    units: list[list[Token]] = []
    apart, text = True, ""  # text: of the last unit
    for token in part:
        if token.kind in _CFWS:
            apart = True
            continue
        open_ended = text.endswith(("=", ".", "/")) or token.text.startswith(("=", ".", "/"))
        if units and (not apart or (joining and open_ended and "=" not in text[:-1])):
            units[-1].append(token)
            text += token.text
        else:
            units.append([token])
            text = token.text
        apart = False
    return units


def _result(units: list[list[Token]]) -> Result | None:
    """One resinfo. None when its first words are no method and result."""
    if not units:
        return None
    method, result = _pair(units[0])
    method, slash, version = method.partition("/")
    if not _KEYWORD.match(method) or not _KEYWORD.match(result) or (slash and not _is_number(version)):
        return None
    reason = ""
    properties: list[Property] = []
    for unit in units[1 : 1 + MAX_PROPERTIES]:
        name, value = _pair(unit)
        type_, dot, name = name.lower().partition(".")
        if type_ == "reason" and not dot and not properties:
            reason = value
        elif dot and _KEYWORD.match(type_) and _KEYWORD.match(name):
            properties.append(Property(type_, name, value))
    return Result(method.lower(), result.lower(), reason, tuple(properties), int(version) if slash else 1)


def _pair(unit: list[Token]) -> tuple[str, str]:
    """What stands before and behind the first "="; ("", "") without one outside of quotes."""
    before = ""
    for index, token in enumerate(unit):
        if token.kind is Kind.QUOTED:
            break
        name, equals, value = token.text.partition("=")
        before += name
        if equals:
            behind = unit[index + 1 :]
            return before, _text([Token(Kind.ATOM, value), *behind] if value else behind)
    return "", ""


def _text(unit: list[Token]) -> str:
    """A unit as text; a quoted string that is all of it loses its quotes."""
    if len(unit) == 1 and unit[0].kind is Kind.QUOTED:
        return re.sub(r"\\(.)", r"\1", unit[0].text[1:-1])
    return "".join(token.text for token in unit)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10

"""SPF's macro strings: read into parts, then expanded.

STANDARDS  RFC 7208 §7 (macros), §7.3 (names are cut on the left), §12 (grammar).
TRUSTS     nothing: the text is a stranger's, and so are most of the values put in. Each character is
           read once.
FAILS      MalformedSpf when the text is not in the grammar. Expansion never fails: whether the result can be
           a name is for the one who asks DNS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

from relay.errors import MalformedSpf

MAX_NAME = 253  # RFC 7208 §7.3
NAME_LETTERS = frozenset("slodiphv")
TEXT_LETTERS = NAME_LETTERS | frozenset("crt")  # RFC 7208 §7.2: c, r and t in explanations only

_PART = re.compile(
    r"%\{(?P<letter>[A-Za-z])(?P<digits>[0-9]*)(?P<reverse>[rR]?)(?P<delimiters>[.\-+,/_=]*)\}"
    r"|%(?P<escape>[%_-])"
    r"|(?P<literal>[ -$&-~]+)"
)
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}
_TOP_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Macro:
    """`%{…}`. keep: how many of the right-hand parts, 0 for all. escape: URL-escape it (an upper-case letter)."""

    letter: str
    keep: int = 0
    reverse: bool = False
    delimiters: str = "."
    escape: bool = False


MacroString = tuple[str | Macro, ...]


def parse_macros(text: str, letters: frozenset[str] = TEXT_LETTERS, *, spaces: bool = False) -> MacroString:
    """A macro-string, or with `spaces` an explain-string. Raises MalformedSpf."""
    parts: list[str | Macro] = []
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            raise MalformedSpf(f"{text[at : at + 20]!r} is no macro and no plain text")
        at = found.end()
        if letter := found["letter"]:
            parts.append(_macro(letter, found, letters))
        elif escape := found["escape"]:
            parts.append(_ESCAPES[escape])
        else:
            if " " in found["literal"] and not spaces:
                raise MalformedSpf("a space stands in a macro string")
            parts.append(found["literal"])
    return tuple(parts)


def parse_domain_spec(text: str) -> MacroString:
    """RFC 7208 §7.1: a macro-string that ends in a macro, or in a dot and a top label. Raises MalformedSpf."""
    parts = parse_macros(text, NAME_LETTERS)
    ends_in_macro = text.endswith("}") and isinstance(parts[-1], Macro)
    if not ends_in_macro and not _ends_in_escape(text):
        _, dot, label = text.removesuffix(".").rpartition(".")
        if not dot or not is_top_label(label):
            raise MalformedSpf(f"{text[-80:]!r} does not end as a domain name does")
    return parts


def is_top_label(label: str) -> bool:
    """RFC 7208 §7.1 toplabel: letters, digits, inner hyphens, and not all digits."""
    return bool(_TOP_LABEL.fullmatch(label)) and not label.isdigit()


def uses(string: MacroString, letters: str) -> bool:
    return any(isinstance(part, Macro) and part.letter in letters for part in string)


def expand(string: MacroString, values: Mapping[str, str]) -> str:
    """`values`: what each letter stands for; RFC 7208 §7.3."""
    return "".join(part if isinstance(part, str) else _expanded(part, values[part.letter]) for part in string)


def expand_name(string: MacroString, values: Mapping[str, str]) -> str:
    """The domain name to ask for, without a final dot: labels are cut off on the left until it fits."""
    name = expand(string, values).removesuffix(".")
    if len(name) > MAX_NAME:
        _, _, name = name[-MAX_NAME - 1 :].partition(".")
    return name


def dotted(ip: IPv4Address | IPv6Address) -> str:
    """`%{i}`: the address, of IPv6 its nibbles (RFC 7208 §7.3)."""
    return str(ip) if ip.version == 4 else ".".join(ip.packed.hex().upper())


def _ends_in_escape(text: str) -> bool:
    """`%%`, `%_` or `%-` is the end. An even run of % before it would be escapes themselves."""
    if text[-1:] not in _ESCAPES:
        return False
    percents = len(text) - 1 - len(text[:-1].rstrip("%"))
    return percents % 2 == 1


def _macro(letter: str, found: re.Match[str], letters: frozenset[str]) -> Macro:
    if letter.lower() not in letters:
        raise MalformedSpf(f"%{{{letter}}} has no meaning here")
    digits = found["digits"].lstrip("0")
    if found["digits"] and not digits:
        raise MalformedSpf("a macro that keeps 0 parts")  # RFC 7208 §7.1: MUST be nonzero
    keep = int(digits[:4] or 0)  # no name has 1000 labels
    return Macro(letter.lower(), keep, bool(found["reverse"]), found["delimiters"] or ".", letter.isupper())


def _expanded(macro: Macro, value: str) -> str:
    parts = re.split(f"[{re.escape(macro.delimiters)}]", value)
    if macro.reverse:
        parts.reverse()
    text = ".".join(parts[-macro.keep :])
    return quote(text, safe="-._~") if macro.escape else text

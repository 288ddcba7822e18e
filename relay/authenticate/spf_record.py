"""An SPF record, read whole into its terms before any of them is looked at (RFC 7208 §4.6).

STANDARDS  RFC 7208 §4.5 (which texts are records), §5, §6, §12 (grammar).
TRUSTS     nothing: the octets are what a stranger published. Each is read a bounded number of times.
FAILS      MalformedSpf: one wrong term, anywhere, makes the record a permerror.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from relay.authenticate.spf_macro import MacroString, parse_domain_spec, parse_macros
from relay.errors import MalformedSpf
from relay.verdict import SpfResult

MAX_KEPT = 512  # octets of a record that is remembered as read; real ones have fewer

_VERSION = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_SENDER_ID = re.compile(rb"spf2\.0/", re.IGNORECASE)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)\Z", re.DOTALL)
_DIRECTIVE = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9]*)(?=[:/]|\Z)(.*)\Z", re.DOTALL)
_LENGTHS = re.compile(r"(?:/([0-9]+))?(?://([0-9]+))?\Z")
_NETWORK = re.compile(r":([0-9A-Fa-f:.]+)(?:/([0-9]+))?\Z")
_QUALIFIERS = {
    "": SpfResult.PASS, "+": SpfResult.PASS, "-": SpfResult.FAIL, "~": SpfResult.SOFTFAIL, "?": SpfResult.NEUTRAL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One directive (RFC 7208 §5). text: as it was written. result: what its qualifier gives when it matches.

    domain: None for the domain that is being checked. prefix4, prefix6: bits of an address that count.
    """

    text: str
    result: SpfResult
    name: str
    domain: MacroString | None = None
    network: IPv4Network | IPv6Network | None = None
    prefix4: int = 32
    prefix6: int = 128


@dataclass(frozen=True, slots=True)
class Record:
    """The directives in their order, and the modifiers. ignored: names of the modifiers nobody defined."""

    mechanisms: tuple[Mechanism, ...]
    redirect: MacroString | None = None
    explanation: MacroString | None = None
    ignored: tuple[str, ...] = ()


def records_among(texts: Iterable[bytes]) -> list[bytes]:
    """RFC 7208 §4.5: those that begin with the version, in any case, and a space or nothing after it."""
    return [text for text in texts if _VERSION.match(text)]


def sender_ids_among(texts: Iterable[bytes]) -> list[bytes]:
    """Records of Sender ID (RFC 4406), which RFC 6686 §5 calls obsolete."""
    return [text for text in texts if _SENDER_ID.match(text)]


def parse_record(octets: bytes) -> Record:
    """Read one of `records_among`. Raises MalformedSpf."""
    return _read_once(octets) if len(octets) <= MAX_KEPT else _read(octets)


def _read(octets: bytes) -> Record:
    if not octets.isascii():
        raise MalformedSpf("the record has octets that are not ASCII")  # RFC 7208 §3.1
    mechanisms: list[Mechanism] = []
    known: dict[str, MacroString] = {}
    ignored: list[str] = []
    for term in octets.decode("ascii")[len("v=spf1") :].split(" "):
        if not term:
            continue  # terms = *( 1*SP … ), record = version terms *SP
        if modifier := _MODIFIER.match(term):
            name, value = modifier[1].lower(), modifier[2]
            if name not in ("redirect", "exp"):
                parse_macros(value)  # RFC 7208 §6: unknown ones are ignored, once their syntax is right
                ignored.append(name)
                continue
            if name in known:
                raise MalformedSpf(f"{name}= stands there twice")  # RFC 7208 §6
            known[name] = parse_domain_spec(value)
        else:
            mechanisms.append(_mechanism(term))
    return Record(tuple(mechanisms), known.get("redirect"), known.get("exp"), tuple(ignored))


_read_once = lru_cache(512)(_read)  # most mail comes from few senders; 15 MB at most


def _mechanism(term: str) -> Mechanism:
    found = _DIRECTIVE.match(term)
    if found is None:
        raise _unknown(term)
    result, name, rest = _QUALIFIERS[found[1]], found[2].lower(), found[3]
    match name:
        case "all" if not rest:
            return Mechanism(term, result, name)
        case "include" | "exists" if rest.startswith(":"):
            return Mechanism(term, result, name, parse_domain_spec(rest[1:]))
        case "ptr" if not rest or rest.startswith(":"):
            return Mechanism(term, result, name, parse_domain_spec(rest[1:]) if rest else None)
        case "a" | "mx":
            return _host(term, result, name, rest)
        case "ip4" | "ip6":
            return Mechanism(term, result, name, network=_network(term, name, rest))
    raise _unknown(term)


def _host(term: str, result: SpfResult, name: str, rest: str) -> Mechanism:
    """RFC 7208 §5.3, §5.4: an optional domain, which may have slashes, then one or two lengths of a prefix."""
    # They are in the tail: looking for them from the start would cost n² on a row of digits.
    lengths = _LENGTHS.search(rest, max(0, len(rest) - 16))
    domain = rest[: lengths.start()] if lengths else rest
    if lengths is None or (domain and not domain.startswith(":")):
        raise _unknown(term)
    return Mechanism(
        term,
        result,
        name,
        parse_domain_spec(domain[1:]) if domain else None,
        prefix4=_length(lengths[1], 32),
        prefix6=_length(lengths[2], 128),
    )


def _network(term: str, name: str, rest: str) -> IPv4Network | IPv6Network:
    found = _NETWORK.match(rest)
    if found is None:
        raise _unknown(term)
    bits = 32 if name == "ip4" else 128
    try:
        network = ip_network(f"{found[1]}/{_length(found[2], bits)}", strict=False)
    except ValueError:
        raise _unknown(term) from None
    if network.max_prefixlen != bits:
        raise _unknown(term)
    return network


def _length(digits: str | None, bits: int) -> int:
    if digits is None:
        return bits
    if len(digits) > 3 or (digits[0] == "0" and digits != "0") or int(digits) > bits:
        raise MalformedSpf(f"/{digits[:10]} is no length of a prefix")
    return int(digits)


def _unknown(term: str) -> MalformedSpf:
    return MalformedSpf(f"{term[:80]!r} is no term of SPF")

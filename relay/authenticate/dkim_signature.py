"""A signature field read, before anything is hashed or asked for: DKIM-Signature, and its ARC kin.

STANDARDS  RFC 6376 §3.5 (tags), §6.1.1 (what a verifier checks first), RFC 8301 §3.1 (no rsa-sha1),
           RFC 8463 §3, RFC 8616 §4 (U-labels in d=, s=, i=). RFC 8617 §4.1.2: an ARC-Message-Signature is
           a DKIM-Signature without v= whose i= is a number.
TRUSTS     nothing: every tag is a stranger's.
FAILS      Unverifiable with the RFC 8601 word and the reason. No name that is not letters, digits, hyphens,
           underscores and dots comes out of here, so that none is ever asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, lru_cache

import idna

from relay.authenticate.dkim_key import Key, Unverifiable
from relay.errors import MalformedTags
from relay.lexical import unfold
from relay.message import Field
from relay.tags import base64_value, parse_tags, words
from relay.verdict import DkimResult

SLOP = 300  # seconds that clocks may differ by
ALGORITHMS = ("rsa-sha256", "ed25519-sha256")
MAX_KEPT = 1024  # characters of an h= that is remembered as read; it has 500 at most, mostly

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_SECONDS = re.compile(r"[0-9]{1,12}\Z")
_OCTETS = re.compile(r"[0-9]{1,76}\Z")
_FIELD_NAMES = re.compile(r"[ \t]*[!-9<-~]+[ \t]*(?::[ \t]*[!-9<-~]+[ \t]*)*\Z")


class Form(StrEnum):
    """RFC 6376 §3.4: what is done to field or body before it is hashed."""

    SIMPLE = "simple"
    RELAXED = "relaxed"


@dataclass(slots=True)  # not frozen: one is made of each signed message, and that would take four times as long
class Signature:
    """What all three kinds of signature have. domain, selector, identity_domain (of i=): in lower-case A-labels.

    key_name: where the key is (RFC 6376 §3.6.2.1). value: the octets of b=.
    """

    field: Field
    algorithm: str
    domain: str
    selector: str
    key_name: str
    identity_domain: str
    value: bytes


@dataclass(slots=True)
class MessageSignature(Signature):
    """names: h=, lower case. length: l=, None for the whole body."""

    header_form: Form
    body_form: Form
    names: tuple[bytes, ...]
    body_hash: bytes
    length: int | None


def read_tags(field: Field) -> dict[str, str]:
    """The tags of a signature field. Raises Unverifiable."""
    try:
        return parse_tags(unfold(field.value))
    except MalformedTags as error:
        raise _permerror(str(error)) from None


def dkim_signature(field: Field, tags: Mapping[str, str], time: float) -> MessageSignature:
    """Read a DKIM-Signature. time: seconds since the epoch, for t= and x=. Raises Unverifiable."""
    if tags.get("v") != "1":
        raise _permerror("v= is not 1")
    signature = message_signature(field, tags, time)
    if "dns/txt" not in words(tags.get("q", "dns/txt")):
        raise _permerror("q= does not name dns/txt")
    if "i" not in tags:
        return signature
    _, at, domain = tags["i"].rpartition("@")
    identity_domain = _domain(domain)
    if not at or not f".{identity_domain}".endswith(f".{signature.domain}"):  # RFC 6376 §6.1.1
        raise _permerror("i= is not in the domain of d=")
    return signature if identity_domain == signature.domain else replace(signature, identity_domain=identity_domain)


def message_signature(field: Field, tags: Mapping[str, str], time: float) -> MessageSignature:
    """Read what DKIM-Signature and ARC-Message-Signature share. Raises Unverifiable."""
    shared = _shared(tags, ("a", "b", "bh", "d", "h", "s"))
    forms = _forms(tags.get("c", "simple"))
    names = (_names_once if len(tags["h"]) <= MAX_KEPT else _names)(tags["h"])
    if b"from" not in names:  # RFC 6376 §5.4
        raise _permerror("h= does not name From")
    length = tags.get("l")
    if length is not None and not _OCTETS.match(length):
        raise _permerror("l= is not a number")
    body_hash = _octets(tags, "bh")
    if len(body_hash) != 32:
        raise _permerror("bh= has not the 32 octets of a SHA-256 hash")
    check_times(tags, time)
    return MessageSignature(field, *shared, *forms, names, body_hash, None if length is None else int(length))


def seal_signature(field: Field, tags: Mapping[str, str]) -> Signature:
    """Read what every kind of signature has. Raises Unverifiable."""
    return Signature(field, *_shared(tags, ("a", "b", "d", "s")))


def _shared(tags: Mapping[str, str], required: tuple[str, ...]) -> tuple[str, str, str, str, str, bytes]:
    """What a Signature has besides its field."""
    for name in required:
        if not tags.get(name):
            raise _permerror(f"{name}= is missing or empty")
    algorithm, domain, selector, key_name = _signer(tags["a"], tags["d"], tags["s"])
    return algorithm, domain, selector, key_name, domain, _octets(tags, "b")


@lru_cache(1024)  # what raises is not kept; most mail comes from few signers
def _signer(algorithm: str, domain: str, selector: str) -> tuple[str, str, str, str]:
    """The algorithm, the domain and the selector as a Signature has them, and the name of the key."""
    domain, selector = _domain(domain), _domain(selector)
    if "." not in domain:
        raise _permerror("d= is not a domain")
    if algorithm == "rsa-sha1":
        raise Unverifiable(DkimResult.POLICY, "rsa-sha1 is not taken any more")  # RFC 8301 §3.1
    if algorithm not in ALGORITHMS:
        raise _permerror("a= names an algorithm that is not known")
    key_name = f"{selector}._domainkey.{domain}"
    if len(key_name) > 253:
        raise _permerror("d= and s= make a name that is too long for the DNS")
    return algorithm, domain, selector, key_name


@cache  # what raises is not kept
def _forms(value: str) -> tuple[Form, Form]:
    """Of header and body."""
    header, _, body = value.partition("/")
    try:
        return Form(header), Form(body or "simple")
    except ValueError:
        raise _permerror("c= names a form that is not known") from None


def _names(value: str) -> tuple[bytes, ...]:
    if not _FIELD_NAMES.match(value):
        raise _permerror("h= is not a list of field names")
    return tuple(name.strip(b" \t") for name in value.lower().encode().split(b":"))


_names_once = lru_cache(512)(_names)  # a signer names the same fields each time


def check_times(tags: Mapping[str, str], time: float) -> None:
    """t= and x= of any kind of signature. Raises Unverifiable."""
    signed, expires = tags.get("t"), tags.get("x")
    for name, value in (("t", signed), ("x", expires)):
        if value is not None and not _SECONDS.match(value):
            raise _permerror(f"{name}= is not a number of seconds")
    if signed and expires and int(expires) <= int(signed):  # RFC 6376 §3.5: x= MUST be greater
        raise _permerror("x= is not later than t=")
    if signed and int(signed) > time + SLOP:
        raise Unverifiable(DkimResult.FAIL, "it was signed in the future (t=)")
    if expires and int(expires) + SLOP < time:
        raise Unverifiable(DkimResult.FAIL, "it has expired (x=)")


def check_key(key: Key, signature: Signature) -> None:
    """Whether the key is for such a signature (RFC 6376 §6.1.2 steps 5 to 9). Raises Unverifiable."""
    algorithm, _, digest = signature.algorithm.partition("-")
    if key.algorithm != algorithm:
        raise _permerror("the key is for another algorithm than a= (k=)")
    if key.hashes is not None and digest not in key.hashes:
        raise _permerror("the key is not for this hash (h=)")
    if key.strict and signature.identity_domain != signature.domain:
        raise _permerror("the key is not for subdomains in i= (t=s)")


@lru_cache(1024)  # what is no domain is not kept, and what is has 253 characters; most mail comes from few signers
def a_labels(domain: str) -> str:
    """`domain` in lower-case A-labels. Raises ValueError for what is not letters, digits, "-", "_" and dots then."""
    if not domain.isascii():
        # Without UTS 46: a full-width letter is another letter (RFC 5891 §5.4).
        domain = ".".join(_a_label(label) for label in domain.lower().split("."))
    if len(domain) > 253 or not _DOMAIN.match(domain):
        raise ValueError("not a domain")
    return domain.lower()


def _a_label(label: str) -> str:
    try:
        return label if label.isascii() else idna.alabel(label).decode("ascii")
    except idna.IDNAError:
        raise ValueError("not a label") from None


def _domain(text: str) -> str:
    try:
        return a_labels(text)
    except ValueError:
        raise _permerror("d=, s= or i= has what no domain has") from None


def _octets(tags: Mapping[str, str], name: str) -> bytes:
    try:
        return base64_value(tags[name])
    except ValueError:
        raise _permerror(f"{name}= is not base64") from None


def _permerror(problem: str) -> Unverifiable:
    return Unverifiable(DkimResult.PERMERROR, problem)

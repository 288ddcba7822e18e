"""What may be called a mail address in an SMTP command: one strict grammar, on bytes.

STANDARDS  RFC 5321 §4.1.2 (Path, Mailbox), §4.5.1 (Postmaster), §4.5.3.1 (lengths);
           RFC 6531 §3.3 (UTF-8 in local parts and domains); RFC 5890 (A-labels).
TRUSTS     nothing: the bytes come from a stranger. No library is asked, because each one
           repairs what it reads, and a repaired address is another address.
FAILS      MalformedAddress, in words fit for the peer. Source routes, trailing dots, NUL,
           controls, two addresses in one and comments are all refused, never stripped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

import idna

from relay.errors import MalformedAddress

MAX_LOCAL_PART = 64  # RFC 5321 §4.5.3.1.1, octets
MAX_DOMAIN = 255  # RFC 5321 §4.5.3.1.2, octets
MAX_PATH = 256  # RFC 5321 §4.5.3.1.3, octets, with the angle brackets

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_DOT_STRING = re.compile(rf"[{_ATEXT}\u0080-\U0010ffff]+(?:\.[{_ATEXT}\u0080-\U0010ffff]+)*\Z")
_QUOTED_STRING = re.compile(r'"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*"\Z')
_PLAIN_PATH = re.compile(rb'<([^>"\x00-\x1f\x7f]{1,%d})>(?= |\Z)' % (MAX_PATH - 2))  # nothing is quoted in it
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
# C1 controls, line and paragraph separators, bidi controls, BOM: no address has a use for them.
_INVISIBLE = re.compile("[\u0080-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]")


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox, as the peer spelled it: what we write on the wire is what we read from it.

    local:  the local part, quotes kept.
    domain: a domain or an address literal in its brackets; "" only for the bare `Postmaster`.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def is_ascii(self) -> bool:
        """False: whoever carries it needs SMTPUTF8."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def domain_key(self) -> str:
        """The domain in the one form that is compared: lower case, A-labels."""
        return domain_key(self.domain)

    @property
    def key(self) -> str:
        """The mailbox in the form that lists are compared in: quotes off, case folded."""
        local = self.local
        if local.startswith('"'):
            local = re.sub(r"\\(.)", r"\1", local[1:-1])
        return f"{local.casefold()}@{self.domain_key}"


def domain_key(domain: str) -> str:
    """`domain` in lower-case A-labels; a domain that has none (RFC 5891) is only lower-cased."""
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        return domain.lower()


def parse_path(argument: bytes, *, utf8: bool, spaces: bool = False) -> tuple[Address | None, bytes]:
    """Read the path that opens a MAIL or RCPT argument, after `FROM:` or `TO:`.

    argument: the bytes behind the colon: `<ann@example.org> SIZE=100`.
    utf8:     bytes above 127 may stand in it (the session speaks SMTPUTF8).
    spaces:   spaces before the path are passed over (devices send them).
    Returns the address, None for `<>`, and the bytes behind the path.
    Raises MalformedAddress.
    """
    if spaces:
        argument = argument.lstrip(b" ")
    if plain := _PLAIN_PATH.match(argument):  # nearly all are
        return parse_mailbox(plain[1], utf8=utf8), argument[plain.end() :]
    if not argument.startswith(b"<"):
        raise MalformedAddress("the path must stand in angle brackets")
    end = _path_end(argument)
    path, rest = argument[1:end], argument[end + 1 :]
    if rest and not rest.startswith(b" "):
        raise MalformedAddress("something other than a space follows the path")
    if not path:
        return None, rest
    if end + 1 > MAX_PATH:
        raise MalformedAddress(f"the path is longer than {MAX_PATH} octets")
    return parse_mailbox(path, utf8=utf8), rest


@lru_cache(1024)  # senders come back
def parse_mailbox(mailbox: bytes, *, utf8: bool) -> Address:
    """Read `local@domain`, the whole of `mailbox`. Raises MalformedAddress."""
    if not utf8 and not mailbox.isascii():
        raise MalformedAddress("non-ASCII octets without SMTPUTF8")
    try:
        text = mailbox.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedAddress("the path is not valid UTF-8") from None
    if _INVISIBLE.search(text):
        raise MalformedAddress("a control or invisible character stands in the path")
    if text.startswith("@"):
        raise MalformedAddress("source routes are not accepted")
    if text.lower() == "postmaster":  # RFC 5321 §4.5.1: without a domain, in any case
        return Address(text, "")
    local, at, domain = text.rpartition("@")
    if not at:
        raise MalformedAddress("no domain")
    _check_local_part(local)
    _check_domain(domain)
    return Address(local, domain)


def parse_domain(domain: str) -> str:
    """`domain` itself when it is a Domain (not a literal). Raises MalformedAddress."""
    _check_domain(domain, literal=False)
    return domain


def _path_end(argument: bytes) -> int:
    """The index of the `>` that closes the path; one inside a quoted string does not."""
    quoted = escaped = False
    for index, octet in enumerate(argument[: MAX_PATH + 64]):
        if octet < 32 or octet == 127:
            raise MalformedAddress("a control character stands in the path")
        if escaped:
            escaped = False
        elif quoted and octet == 0x5C:  # backslash
            escaped = True
        elif octet == 0x22:  # double quote
            quoted = not quoted
        elif octet == 0x3E and not quoted:  # >
            return index
    raise MalformedAddress("the path is not closed, or too long")


def _check_local_part(local: str) -> None:
    if len(local.encode()) > MAX_LOCAL_PART:
        raise MalformedAddress(f"the local part is longer than {MAX_LOCAL_PART} octets")
    if not _DOT_STRING.match(local) and not _QUOTED_STRING.match(local):
        raise MalformedAddress("the local part is neither a dot-string nor a quoted string")


def _check_domain(domain: str, *, literal: bool = True) -> None:
    if len(domain.encode()) > MAX_DOMAIN:
        raise MalformedAddress(f"the domain is longer than {MAX_DOMAIN} octets")
    if domain.startswith("[") and literal:
        _check_literal(domain)
        return
    if not domain.isascii():
        try:
            for label in domain.lower().split("."):
                idna.alabel(label)  # RFC 5891 §5.4, without UTS 46: a full-width "ｂank.example" is not bank.example
        except idna.IDNAError:
            raise MalformedAddress("the domain is not one") from None
    ace = domain_key(domain)
    if not ace.isascii() or not all(_LABEL.match(label) for label in ace.split(".")):
        raise MalformedAddress("the domain is not one")


def _check_literal(domain: str) -> None:
    """RFC 5321 §4.1.3: `[192.0.2.1]` or `[IPv6:2001:db8::1]`."""
    inside = domain[1:-1] if domain.endswith("]") else ""
    try:
        if inside[:5].lower() == "ipv6:" and "%" not in inside:
            IPv6Address(inside[5:])
        else:
            IPv4Address(inside)
    except ValueError:
        raise MalformedAddress("the address literal is not one") from None

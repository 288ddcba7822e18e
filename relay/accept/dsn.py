"""The parameters of MAIL and RCPT that ask for delivery reports. Pure.

STANDARDS  RFC 3461 §4 (xtext, RET, ENVID, NOTIFY, ORCPT), RFC 6533 §3 (the address type utf-8).
TRUSTS     that a value is ASCII without spaces; not what it decodes to, which later stands in header
           fields and command lines of others.
FAILS      each question is answered with False.
"""

from __future__ import annotations

import re

MAX_ENVID = 100  # octets decoded, RFC 3461 §4.4
MAX_ORCPT = 500  # octets as written, RFC 3461 §4.2

_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_ENCODED = re.compile(rb"\+([0-9A-F]{2})")
_ADDRESS_TYPE = re.compile(rb"[A-Za-z0-9!#$%&'*/?^_`{|}~-]+\Z")  # an atom; `+` and `=` would need xtext
_PRINTABLE = re.compile(rb"[ -~]+\Z")
_EVENTS = frozenset({b"SUCCESS", b"FAILURE", b"DELAY"})


def decode(value: bytes) -> bytes | None:
    """What xtext stands for; None when it is not xtext."""
    if not _XTEXT.match(value):
        return None
    return _ENCODED.sub(lambda found: bytes.fromhex(found[1].decode()), value)


def is_ret(value: bytes) -> bool:
    return value.upper() in (b"FULL", b"HDRS")


def is_envid(value: bytes) -> bool:
    """xtext of at most 100 printable characters."""
    envid = decode(value)
    return envid is not None and len(envid) <= MAX_ENVID and bool(_PRINTABLE.match(envid))


def is_notify(value: bytes) -> bool:
    """NEVER alone, or some of SUCCESS, FAILURE, DELAY, each once."""
    words = value.upper().split(b",")
    return words == [b"NEVER"] or (set(words) <= _EVENTS and len(set(words)) == len(words))


def is_orcpt(value: bytes) -> bool:
    """`type;xtext` of at most 500 octets, whose address is printable."""
    kind, semicolon, address = value.partition(b";")
    original = decode(address)
    return (
        len(value) <= MAX_ORCPT
        and bool(semicolon and _ADDRESS_TYPE.match(kind))
        and original is not None
        and bool(_PRINTABLE.match(original))
    )

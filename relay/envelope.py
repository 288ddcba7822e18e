"""Who hands over a message, and for whom: the facts of a session and of a transaction."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from relay.address import Address
from relay.config.models import Route

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_ANY = _ALPHABET.encode() * 8  # five bits of an octet as a letter


def new_id(time: float) -> str:
    """A message or session id: 16 characters of `[0-9a-z]`, sortable by time, not guessable."""
    second, fraction = divmod(int(time * 1000), 1024)
    return _second(second) + _PAIRS[fraction] + os.urandom(7).translate(_ANY).decode()


@lru_cache(1)  # of 1024 ms
def _second(number: int) -> str:
    """The 35 lower bits of `number`."""
    return "".join([_ALPHABET[number >> shift & 31] for shift in range(30, -1, -5)])


@dataclass(frozen=True, slots=True)
class Tls:
    """version: `TLSv1.3`; cipher: `TLS_AES_256_GCM_SHA384`; bits: of the cipher."""

    version: str
    cipher: str
    bits: int


@dataclass(slots=True)  # not frozen: one is made for each session, and that would take thrice as long
class Client:
    """The client of a session, as known when the transaction began. Nobody changes it.

    listener: the name of the listener it came in by. role: that listener's role.
    helo:     what it said in EHLO or HELO, at most 255 printable ASCII characters.
    extended: it said EHLO, not HELO.
    login:    the name it logged in with, None without.
    address:  `ip` as text.
    """

    listener: str
    role: str
    ip: IPv4Address | IPv6Address
    port: int
    helo: str = ""
    extended: bool = True
    tls: Tls | None = None
    login: str | None = None
    address: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.address = str(self.ip)


@dataclass(frozen=True, slots=True)
class Notify:
    """What the sender of a message wants to hear about one recipient (RFC 3461 §4.1, §4.2).

    on:       the value of NOTIFY=, upper case; "" when not given.
    original: the value of ORCPT= as it came, xtext and all; "" when not given.
    """

    on: str = ""
    original: str = ""


@dataclass(slots=True)
class Envelope:
    """One transaction (RFC 5321 §3.3). It grows from MAIL to the final dot, then stays as it is.

    reverse_path: None is `<>`. size: octets declared with SIZE=, 0 when not.
    eight_bit:    BODY=8BITMIME was given. smtputf8: SMTPUTF8 was given.
    ret, envid:   the values of RET= and ENVID= (RFC 3461 §4.3, §4.4) as they came; "" when not given.
    notify:       for recipients that came with NOTIFY= or ORCPT=.
    routes:       where their mail goes, by the mailboxes that are meant by the recipients; while the session lasts.
    """

    id: str
    client: Client
    reverse_path: Address | None
    size: int = 0
    eight_bit: bool = False
    smtputf8: bool = False
    recipients: list[Address] = field(default_factory=list)
    ret: str = ""
    envid: str = ""
    notify: dict[Address, Notify] = field(default_factory=dict)
    routes: dict[Address, Route] = field(default_factory=dict, compare=False)

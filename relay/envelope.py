"""Who hands over a message, and for whom: the facts of a session and of a transaction."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from relay.address import Address

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_id(time: float) -> str:
    """A message or session id: 16 characters of `[0-9a-z]`, sortable by time, not guessable."""
    number = (int(time * 1000) & ((1 << 45) - 1)) << 35 | secrets.randbits(35)
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(70, -1, -10)])


@dataclass(frozen=True, slots=True)
class Tls:
    """version: `TLSv1.3`; cipher: `TLS_AES_256_GCM_SHA384`; bits: of the cipher."""

    version: str
    cipher: str
    bits: int


@dataclass(frozen=True, slots=True)
class Client:
    """The client of a session, as known when the transaction began.

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
    address: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.address:
            object.__setattr__(self, "address", str(self.ip))


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

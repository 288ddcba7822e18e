"""What the checks found, as frozen facts in the words of the RFCs.

`text` fields are for people who ask why (log, `relay explain`); nothing in here is a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple


class SpfResult(StrEnum):
    """RFC 7208 §2.6."""

    NONE = "none"  # no record, or no domain to ask about
    NEUTRAL = "neutral"  # the domain says nothing about this client
    PASS = "pass"  # the client may send for the domain
    FAIL = "fail"  # it may not
    SOFTFAIL = "softfail"  # it probably may not
    TEMPERROR = "temperror"  # DNS trouble
    PERMERROR = "permerror"  # the record cannot be used


class DkimResult(StrEnum):
    """RFC 8601 §2.7.1."""

    NONE = "none"  # not signed
    PASS = "pass"
    FAIL = "fail"  # the hashes or the signature do not match
    POLICY = "policy"  # it verifies, and we do not take it: rsa-sha1, a short key, a part of the body
    NEUTRAL = "neutral"  # it cannot be read as a signature
    TEMPERROR = "temperror"  # DNS trouble
    PERMERROR = "permerror"  # no key, a revoked key, a broken signature field


class DmarcResult(StrEnum):
    """RFC 9989 §4, RFC 8601 §2.7."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Disposition(StrEnum):
    """What the domain's owner asks for (RFC 9989 §4.7: p, sp, np)."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class ArcResult(StrEnum):
    """RFC 8617 §4.4."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"


class IprevResult(StrEnum):
    """RFC 8601 §2.7.3."""

    PASS = "pass"  # the address has a name that has the address
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"  # it has no name


class Step(NamedTuple):
    """One step of an evaluation, for people: indent by `depth`. A message has dozens, so that it is a tuple.

    what:  the term or question (`include:_spf.example.net`, `TXT example.org`).
    found: what came of it (`pass`, `NXDOMAIN`, `192.0.2.1`).
    seconds: spent on DNS in this step.
    """

    depth: int
    what: str
    found: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SpfVerdict:
    """domain: the one that was checked. identity: "mailfrom" or "helo". mechanism: the term that matched, or "".

    explanation: the `exp=` text of a fail, "" without. problem: why permerror or temperror.
    """

    result: SpfResult
    domain: str = ""
    identity: str = "mailfrom"
    mechanism: str = ""
    explanation: str = ""
    problem: str = ""
    lookups: int = 0
    void_lookups: int = 0
    trace: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class DkimVerdict:
    """One signature. domain, selector: d= and s=, as A-labels where they have them. identity: i=, or "@" + d=.

    algorithm: a= as it stands. key_bits: 0 when no key was seen. signature: the first 8 characters of b=.
    problem: why it is not a pass, "" for one. body_hash_matches: None when it was not compared.
    testing: the key says t=y.
    """

    result: DkimResult
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    key_bits: int = 0
    identity: str = ""
    signature: str = ""
    problem: str = ""
    body_hash_matches: bool | None = None
    testing: bool = False


@dataclass(frozen=True, slots=True)
class ArcVerdict:
    """sealers: the d= of each seal, the oldest first. oldest_pass: RFC 8617 §5.2 (0 when all AMS pass).

    trusted: the newest sealer is one we trust. authentication_results: of the trusted sealer's AAR, else "".
    """

    result: ArcResult
    sealers: tuple[str, ...] = ()
    oldest_pass: int | None = None
    problem: str = ""
    trusted: bool = False
    authentication_results: str = ""


@dataclass(frozen=True, slots=True)
class DmarcVerdict:
    """domain: of the record that was used, "" without one. disposition: what it asks for, after sp, np and t.

    author_domain: RFC5322.From's. organizational_domain: of the author domain, by the tree walk.
    record: its text. published: its tags. aligned_by: "spf", "dkim", both, or none of them.
    testing: t=y lowered the disposition. trace: the walk.
    """

    result: DmarcResult
    author_domain: str = ""
    domain: str = ""
    organizational_domain: str = ""
    disposition: Disposition = Disposition.NONE
    record: str = ""
    published: Mapping[str, str] = field(default_factory=dict)
    aligned_by: tuple[str, ...] = ()
    testing: bool = False
    problem: str = ""
    trace: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class IprevVerdict:
    """name: the confirmed name, else the first that the address has, else "". helo_agrees: EHLO said that name."""

    result: IprevResult
    ip: IPv4Address | IPv6Address
    name: str = ""
    helo_agrees: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All that was found about one message. seconds: how long the checks took; queries: how many DNS questions."""

    spf: SpfVerdict  # MAIL FROM; for <> postmaster@HELO
    helo: SpfVerdict
    dkim: tuple[DkimVerdict, ...]
    arc: ArcVerdict
    dmarc: DmarcVerdict
    iprev: IprevVerdict
    seconds: float = 0.0
    queries: int = 0
    steps: tuple[Step, ...] = ()  # each DNS question with its time

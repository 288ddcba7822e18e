"""What follows from what the checks found: `[policy]`, and `[shadow]` of the same shape beside it.

One table per check, one key per result that is no pass. What DMARC asks for has keys of its own, since
RFC 9989 says what a receiver may do with it.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from relay.config.names import AnyNetwork, DomainName, Name
from relay.config.table import Table


class Action(StrEnum):
    """From the mildest to the harshest."""

    ACCEPT = "accept"
    MARK = "mark"  # delivered, with a field that says why
    QUARANTINE = "quarantine"  # delivered with X-Relay-Quarantine, or to a next hop of its own
    DEFER = "defer"  # 451
    REFUSE = "refuse"  # 550


class OnTemperror(StrEnum):
    """Temporary trouble is never a permanent answer."""

    ACCEPT = "accept"
    MARK = "mark"
    QUARANTINE = "quarantine"
    DEFER = "defer"


class Mode(StrEnum):
    ENFORCE = "enforce"
    MONITOR = "monitor"  # decide, log, count, and accept


class AuthorRule(StrEnum):
    STRICT = "strict"
    TAG = "tag"


_ACTIONS = "accept | mark | quarantine | defer | refuse"
_SOFT = "accept | mark | quarantine | defer"


class SpfRules(Table):
    """Asked of MAIL FROM unless DMARC passed; an SPF fail alone says little about a forwarded message."""

    none: Action = Field(Action.ACCEPT, description=f"no record: {_ACTIONS}")
    neutral: Action = Field(Action.ACCEPT, description="the domain says nothing about the client")
    softfail: Action = Field(Action.ACCEPT, description="the client is probably not the domain's")
    fail: Action = Field(Action.MARK, description="the client is not the domain's; RFC 9989 §7.1 warns of refuse")
    permerror: Action = Field(Action.ACCEPT, description="the record cannot be used")
    temperror: OnTemperror = Field(OnTemperror.ACCEPT, description=f"DNS trouble: {_SOFT}")


class HeloRules(Table):
    """SPF of the name in EHLO."""

    none: Action = Field(Action.ACCEPT, description=f"no record: {_ACTIONS}")
    neutral: Action = Field(Action.ACCEPT, description="the name says nothing about the client")
    softfail: Action = Field(Action.ACCEPT, description="the name is probably not the client's")
    fail: Action = Field(Action.ACCEPT, description="the name is not the client's")
    permerror: Action = Field(Action.ACCEPT, description="the record cannot be used")
    temperror: OnTemperror = Field(OnTemperror.ACCEPT, description=f"DNS trouble: {_SOFT}")


class DkimRules(Table):
    """Asked when no signature passes, and unless DMARC passed; RFC 6376 §6.1 has a failed one count as none."""

    none: Action = Field(Action.ACCEPT, description=f"not signed: {_ACTIONS}")
    fail: Action = Field(Action.ACCEPT, description="the hashes or the signature do not match")
    policy: Action = Field(Action.ACCEPT, description="it verifies, and we do not take it")
    neutral: Action = Field(Action.ACCEPT, description="it cannot be read as a signature")
    permerror: Action = Field(Action.ACCEPT, description="no key, or a broken signature field")
    temperror: OnTemperror = Field(OnTemperror.ACCEPT, description=f"DNS trouble: {_SOFT}")


class DmarcRules(Table):
    """What a fail means under the policy that the author's domain publishes. p=none changes nothing (RFC 9989 §5.4)."""

    reject: bool = Field(
        False,
        description="refuse what fails under p=reject. RFC 9989 §7.4: not on that ground alone,\n"
        "for it breaks mailing lists; without it p=reject is taken for p=quarantine",
    )
    quarantine: Action = Field(Action.QUARANTINE, description=f"what fails under p=quarantine: {_ACTIONS}")
    none: Action = Field(Action.ACCEPT, description="the author's domain publishes no policy")
    temperror: OnTemperror = Field(OnTemperror.ACCEPT, description=f"DNS trouble leaves it open: {_SOFT}")


class ArcRules(Table):
    """Chains of Authenticated Received Chain, which the IETF is about to declare historic."""

    fail: OnTemperror = Field(
        OnTemperror.ACCEPT,
        description="a broken chain, which counts as none (RFC 8617 §5.2.2), or DNS trouble, which ARC\n"
        "does not tell from it: accept | mark | quarantine | defer",
    )


class IprevRules(Table):
    """Reverse DNS of the client."""

    fail: Action = Field(Action.ACCEPT, description=f"no name of the address points back to it: {_ACTIONS}")
    permerror: Action = Field(Action.ACCEPT, description="the address has no name")
    temperror: OnTemperror = Field(OnTemperror.ACCEPT, description=f"DNS trouble: {_SOFT}")


class Forwarder(Table):
    """Who hands mail on to us: its SPF, DKIM, DMARC and ARC may fail. All conditions given must hold."""

    name: tuple[DomainName, ...] = Field((), description="confirmed reverse names, or the domains they are in")
    network: tuple[AnyNetwork, ...] = Field((), description="the networks it connects from")
    dkim: tuple[DomainName, ...] = Field((), description="domains (d=) of which one signed the message, verified")


class Rules(Table):
    """Nothing is done by them. Where they ask for something else than [policy] does, that is logged and counted."""

    author: AuthorRule = Field(
        AuthorRule.STRICT,
        description="strict | tag: refuse a message without exactly one author domain in From,\n"
        "or deliver it with dmarc=permerror",
    )
    spf: SpfRules = Field(default_factory=SpfRules, description="SPF of MAIL FROM")
    helo: HeloRules = Field(default_factory=HeloRules, description="SPF of HELO")
    dkim: DkimRules = Field(default_factory=DkimRules, description="DKIM")
    dmarc: DmarcRules = Field(default_factory=DmarcRules, description="DMARC")
    arc: ArcRules = Field(default_factory=ArcRules, description="ARC")
    iprev: IprevRules = Field(default_factory=IprevRules, description="reverse DNS")
    forwarder: dict[Name, Forwarder] = Field(
        default_factory=dict,
        examples=[{"list": {"name": ["lists.example.net"]}}],
        description="whose mail is not held against its author: spf, dkim, dmarc and arc are passed over",
    )
    trusted_sealers: tuple[DomainName, ...] = Field(
        (), description="domains (d=) whose ARC seals are believed when they say dmarc=pass"
    )


class Policy(Rules):
    """The harshest action that any check's table asks for is taken."""

    mode: Mode = Field(Mode.ENFORCE, description="enforce | monitor: decide, log and count, and accept")
    skip: tuple[AnyNetwork, ...] = Field((), description="networks whose mail is not checked")
    seal: str | None = Field(
        None,
        examples=["example"],
        description="the [domain.…] whose first key seals what is passed on (ARC); off, for the IETF is about to\n"
        "declare ARC historic",
    )
    quarantine_hop: str | None = Field(
        None,
        examples=["quarantine"],
        description="the hop for quarantined mail; default: its own, with X-Relay-Quarantine",
    )

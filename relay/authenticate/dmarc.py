"""Whether the domain in From is the one that sent the message, and what its owner asks for if it is not.

Two steps: `discover` walks the tree for the author domain while SPF and DKIM still run, `judge` sees
which of their domains align. Each name is asked once; the walks of one message share their answers.

STANDARDS  RFC 9989 §4.10 (tree walk, policy discovery, alignment), §5.3 (what a receiver does), §4.7 (t, sp, np);
           RFC 8020 (what NXDOMAIN means).
TRUSTS     that spf_domain and dkim_domains were authenticated. Records are a stranger's (`dmarc_record.py`).
FAILS      temperror when DNS trouble leaves the answer open, and only then: trouble with a domain that could not
           align in any case changes nothing, so that a spoofer gains nothing by breaking his own DNS.
           permerror when the author domain is no domain name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from relay.address import domain_key
from relay.authenticate.dmarc_record import Record, parse
from relay.errors import DnsTrouble, NoData, NoSuchName
from relay.resolver import Questions
from relay.verdict import Disposition, DmarcResult, DmarcVerdict, Step

MAX_LABELS = 8  # a start longer than this is cut ... (RFC 9989 §4.10 step 4)
CUT_TO = 7  # ... to this, so that no walk takes more than eight queries

_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")
_LOWER = {Disposition.REJECT: Disposition.QUARANTINE, Disposition.QUARANTINE: Disposition.NONE}


class Found(NamedTuple):
    """A record, and the name it stands at."""

    name: str
    record: Record


@dataclass(frozen=True, slots=True)
class Walk:
    """found: the records on the way, the longest name first. trouble: why the walk ended early, or ""."""

    start: str
    found: tuple[Found, ...]
    trouble: str = ""

    @property
    def organizational_domain(self) -> str:
        """RFC 9989 §4.10.2; "" when trouble leaves it open."""
        return "" if self.trouble else organizational_domain(self.start, self.found)


def names(start: str) -> Iterator[str]:
    """The names whose records a walk from `start` asks for, in order (RFC 9989 §4.10)."""
    labels = start.split(".")
    yield start
    labels = labels[-CUT_TO:] if len(labels) >= MAX_LABELS else labels[1:]
    while labels:
        yield ".".join(labels)
        labels = labels[1:]


def organizational_domain(start: str, found: Iterable[Found]) -> str:
    """RFC 9989 §4.10.2: of the records a complete walk found, the longest name first."""
    top = start
    for name, record in found:
        if record.psd == "n":
            return name
        if record.psd == "y" and name != start:
            return ".".join(start.split(".")[-name.count(".") - 2 :])  # one label below the public suffix
        top = name
    return top


class Records:
    """The DMARC records that one message's walks ask for, each name once. steps: what was asked, for people.

    before: the walks that go on.
    """

    def __init__(self, resolver: Questions, before: Records | None = None) -> None:
        self._resolver = resolver
        self._known: dict[str, Record | DnsTrouble | None] = dict(before._known) if before else {}
        self.exists: set[str] = set()  # names that are there, since one below them is
        self.steps: list[Step] = list(before.steps) if before else []

    async def walk(self, start: str, depth: int = 0) -> Walk:
        """Ends at the first record with psd=y or psd=n, or at the first name that DNS cannot tell of."""
        found: list[Found] = []
        for name in names(start):
            record = await self._record(name, depth)
            if isinstance(record, DnsTrouble):
                return Walk(start, tuple(found), f"_dmarc.{name}: {record}")
            if record is not None:
                found.append(Found(name, record))
                if record.psd in "yn":
                    break
        return Walk(start, tuple(found))

    async def does_exist(self, name: str) -> bool:
        """RFC 8020: only NXDOMAIN says that a name does not exist. Raises DnsTrouble."""
        if name in self.exists:
            return True
        try:
            await self._resolver.txt(name)
        except NoSuchName:
            self.steps.append(Step(0, name, "does not exist"))
            return False
        except NoData:
            pass
        return True

    async def _record(self, name: str, depth: int) -> Record | DnsTrouble | None:
        if name not in self._known:
            self._known[name] = await self._ask(name, depth)
        return self._known[name]

    async def _ask(self, name: str, depth: int) -> Record | DnsTrouble | None:
        asked = f"_dmarc.{name}"
        try:
            texts = await self._resolver.txt(asked)
        except NoSuchName:
            self.steps.append(Step(depth, asked, "no such name"))
            return None
        except NoData:
            self.exists.add(name)
            self.steps.append(Step(depth, asked, "no data"))
            return None
        except DnsTrouble as trouble:
            self.steps.append(Step(depth, asked, f"trouble: {trouble}"))
            return trouble
        self.exists.add(name)
        records = [record for record in map(parse, texts) if record]
        if len(records) != 1:
            # RFC 9989 §4.10 steps 2 and 6: several are all discarded, and the walk goes on.
            self.steps.append(Step(depth, asked, f"{len(records)} DMARC records, so none" if records else "no record"))
            return None
        self.steps.append(Step(depth, asked, records[0].text))
        self.steps.extend(Step(depth + 1, problem, "ignored") for problem in records[0].problems)
        return records[0]


@dataclass(frozen=True, slots=True, eq=False)  # one is itself, and no other: what is judged by it is kept beside it
class Discovery:
    """What the tree says of the author domain. applied: the record that counts, None without one.

    trouble: why it cannot be known which record counts, or what it asks for; "" otherwise.
    """

    author: str
    walk: Walk
    records: Records
    applied: Found | None = None
    disposition: Disposition = Disposition.NONE
    testing: bool = False
    trouble: str = ""


async def evaluate(
    from_domain: str,
    spf_domain: str | None,
    dkim_domains: Iterable[str],
    resolver: Questions,
    undecided: Iterable[str] = (),
) -> DmarcVerdict:
    """RFC 9989 §5.3. Domains in any case, as A-labels or U-labels.

    spf_domain:   the domain of MAIL FROM if SPF passed for it, else None.
    dkim_domains: the d= of the signatures that passed. undecided: domains whose SPF or DKIM ended in temperror.
    """
    return await judge(await discover(from_domain, resolver), spf_domain, dkim_domains, undecided, resolver)


async def discover(from_domain: str, resolver: Questions) -> Discovery:
    """The policy that holds for `from_domain` (RFC 9989 §4.10.1). Never raises for what DNS says."""
    author = _canonical(from_domain)
    records = Records(resolver)
    if not author:
        return Discovery("", Walk("", ()), records)
    walk = await records.walk(author)
    own = next((found for found in walk.found if found.name == author), None)
    discovery = Discovery(author, walk, records)
    if own is None and walk.trouble:
        return replace(discovery, trouble=walk.trouble)
    if own is not None:
        return _with_policy(discovery, own, "p")
    applied = _inherited(walk)
    if applied is None:
        return discovery
    kinds: tuple[str, ...] = ("sp", "p")
    if applied.record.policy("np", *kinds) != applied.record.policy(*kinds):
        try:
            if not await records.does_exist(author):
                kinds = ("np", *kinds)
        except DnsTrouble as trouble:
            return replace(discovery, applied=applied, trouble=f"{author}: {trouble}")
    return _with_policy(discovery, applied, *kinds)


async def judge(
    discovery: Discovery,
    spf_domain: str | None,
    dkim_domains: Iterable[str],
    undecided: Iterable[str],
    resolver: Questions,
) -> DmarcVerdict:
    """Alignment and result (RFC 9989 §4.10.2, §5.3.4, §5.3.5). discovery: stays as it is, for other messages."""
    records = Records(resolver, discovery.records)
    alignment = _Alignment(discovery, records)

    def verdict(result: DmarcResult, problem: str = "", aligned_by: tuple[str, ...] = ()) -> DmarcVerdict:
        return _verdict(discovery, records.steps, result, problem, aligned_by)

    if not discovery.author:
        return DmarcVerdict(DmarcResult.PERMERROR, problem="the author domain is not a domain name")
    if discovery.applied is None:
        if discovery.trouble:
            return verdict(DmarcResult.TEMPERROR, discovery.trouble)
        return verdict(DmarcResult.NONE)
    if not discovery.applied.record.usable:
        problem = "the record has no valid policy and no valid rua"  # RFC 9989 §4.10.1
        return verdict(DmarcResult.NONE, problem)
    record = discovery.applied.record
    aligned_by = []
    if spf_domain and await alignment.any([spf_domain], "spf", strict=record.strict("spf")):
        aligned_by.append("spf")
    if await alignment.any(dkim_domains, "dkim", strict=record.strict("dkim")):
        aligned_by.append("dkim")
    if aligned_by:
        return verdict(DmarcResult.PASS, aligned_by=tuple(aligned_by))
    strict = record.strict("spf") and record.strict("dkim")
    if await alignment.any(undecided, "undecided", strict=strict):
        return verdict(DmarcResult.TEMPERROR, "SPF or DKIM of an aligned domain is a temperror")
    if alignment.trouble or discovery.trouble:
        return verdict(DmarcResult.TEMPERROR, alignment.trouble or discovery.trouble)
    return verdict(DmarcResult.FAIL)


@dataclass(slots=True)
class _Alignment:
    """Which domains align with the author's. trouble: why one that might could not be told."""

    discovery: Discovery
    records: Records
    trouble: str = ""

    async def any(self, domains: Iterable[str], method: str, *, strict: bool) -> bool:
        author = self.discovery.author
        # The author domain itself first: it needs no walk.
        for domain in sorted({_canonical(domain) for domain in domains}, key=lambda domain: (domain != author, domain)):
            if domain and await self._aligned(domain, method, strict=strict):
                return True
        return False

    async def _aligned(self, domain: str, method: str, *, strict: bool) -> bool:
        records, walk = self.records, self.discovery.walk
        if domain == self.discovery.author:
            records.steps.append(Step(0, f"{method} {domain}", "is the author domain, aligned"))
            return True
        if strict:
            records.steps.append(Step(0, f"{method} {domain}", "not the author domain, alignment is strict"))
            return False
        if walk.trouble:
            # With none of its labels in common, no record can bring the two together.
            if domain.rpartition(".")[2] == self.discovery.author.rpartition(".")[2]:
                self.trouble = self.trouble or walk.trouble
            return False
        top = walk.organizational_domain
        # A domain's Organizational Domain is itself or above it: one that is not below the author's
        # cannot have the same. So no walk begins in a zone that a spoofer picked.
        if domain != top and not domain.endswith(f".{top}"):
            records.steps.append(Step(0, f"{method} {domain}", f"not within {top}, not aligned"))
            return False
        records.steps.append(Step(0, f"{method} {domain}", f"within {top}"))
        theirs = await records.walk(domain, depth=1)
        if theirs.trouble:
            self.trouble = self.trouble or theirs.trouble
            return False
        aligned = theirs.organizational_domain == top
        found = "aligned" if aligned else "not aligned"
        records.steps.append(Step(0, f"{method} {domain}", f"belongs to {theirs.organizational_domain}, {found}"))
        return aligned


def _inherited(walk: Walk) -> Found | None:
    """The record of the Organizational Domain, else of the public suffix above it (RFC 9989 §4.10.1)."""
    by_name = dict(walk.found)
    top = walk.organizational_domain
    if top in by_name:
        return Found(top, by_name[top])
    return next((found for found in walk.found if found.record.psd == "y"), None)


def _with_policy(discovery: Discovery, applied: Found, *kinds: str) -> Discovery:
    asked = applied.record.policy(*kinds)
    testing = applied.record.testing and asked in _LOWER  # RFC 9989 §4.7: one step lower
    disposition = _LOWER[asked] if testing else asked
    if testing:
        discovery.records.steps.append(Step(0, "t=y", f"{asked} becomes {disposition}"))
    return Discovery(discovery.author, discovery.walk, discovery.records, applied, disposition, testing)


def _verdict(
    discovery: Discovery, steps: list[Step], result: DmarcResult, problem: str, aligned_by: tuple[str, ...]
) -> DmarcVerdict:
    applied = discovery.applied
    top = discovery.walk.organizational_domain
    if top:
        steps.append(Step(0, f"Organizational Domain of {discovery.author}", top))
    return DmarcVerdict(
        result,
        author_domain=discovery.author,
        domain=applied.name if applied else "",
        organizational_domain=top,
        disposition=discovery.disposition if applied and applied.record.usable else Disposition.NONE,
        record=applied.record.text if applied else "",
        published=dict(applied.record.tags) if applied else {},
        aligned_by=aligned_by,
        testing=discovery.testing,
        problem=problem,
        trace=tuple(steps),
    )


@lru_cache(1024)  # what comes here is no longer than an address
def _canonical(domain: str) -> str:
    """The form that is compared and asked for: lower case, A-labels, no final dot; "" for no domain name."""
    key = domain_key(domain.removesuffix("."))
    return key if _DOMAIN.match(key) else ""

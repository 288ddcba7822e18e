"""SPF: may this client send mail for this domain?

STANDARDS  RFC 7208 (check_host §4, mechanisms §5, modifiers §6, limits §4.6.4), RFC 8616 §4 (internationalised mail).
TRUSTS     nothing: records, names and texts are a stranger's, HELO and MAIL FROM too. At most 10 terms that
           need DNS, 2 of them void, 10 hosts of an MX, 10 names of a PTR; a name that can be none is not asked for.
FAILS      never with an exception for what mail or DNS say: `permerror` and `temperror` are results.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from relay.address import domain_key
from relay.authenticate.spf_macro import (
    MacroString,
    dotted,
    expand,
    expand_name,
    is_top_label,
    parse_macros,
    uses,
)
from relay.authenticate.spf_record import Mechanism, Record, parse_record, records_among, sender_ids_among
from relay.authenticate.spf_trace import Trace, shown
from relay.clock import Clock, SystemClock
from relay.errors import DnsTrouble, MalformedSpf, NoData, NoSuchName
from relay.resolver import Questions, askable
from relay.verdict import SpfResult, SpfVerdict, Step

MAX_LOOKUPS = 10  # RFC 7208 §4.6.4: include, a, mx, ptr, exists, redirect
WARN_LOOKUPS = 8
MAX_VOID_LOOKUPS = 2  # RFC 7208 §4.6.4
MAX_HOSTS = 10  # RFC 7208 §4.6.4: of one MX, and of one PTR
MAX_EXPLANATION = 1000  # characters
_DOMAIN = re.compile(r"[A-Za-z0-9_.-]+\Z")  # of a MAIL FROM or HELO; macros may make other names
_PRINTABLE = re.compile(r"[ -~]*\Z")

T = TypeVar("T")
Ip = IPv4Address | IPv6Address


async def check_host(
    ip: str | Ip,
    domain: str,
    sender: str,
    helo: str,
    resolver: Questions,
    *,
    identity: str = "mailfrom",
    receiver: str = "unknown",
    clock: Clock | None = None,
) -> SpfVerdict:
    """RFC 7208 §4: check `domain` for a client at `ip`.

    sender: the MAIL FROM or HELO identity; without a local part it is postmaster's. helo: as the client said it.
    identity: goes into the verdict. receiver: our host name, for `%{r}`. Raises ValueError when `ip` is none.
    """
    address = ip_address(ip) if isinstance(ip, str) else ip
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped  # RFC 7208 §5
    check = _Check(address, sender or domain, helo, resolver, receiver, clock or SystemClock())
    domain = domain_key(domain.removesuffix("."))
    result, mechanism, problem, explanation = SpfResult.NONE, "", "", ""
    try:
        found = await check.evaluate(domain, 0) if _DOMAIN.match(domain) else _NO_DOMAIN
        result, mechanism, problem = found.result, found.mechanism, found.problem
        if result is SpfResult.FAIL and found.record and found.record.explanation:
            explanation = await check.explain(found.record.explanation, found.domain)
    except _Undecidable as error:
        result, problem = error.result, str(error)
    return SpfVerdict(
        result=result,
        domain=domain,
        identity=identity,
        mechanism=mechanism,
        explanation=explanation,
        problem=problem,
        lookups=check.lookups,
        void_lookups=check.void_lookups,
        trace=check.trace(),
    )


async def check_mail_from(
    ip: str | Ip,
    mail_from: str,
    helo: str,
    resolver: Questions,
    *,
    receiver: str = "unknown",
    clock: Clock | None = None,
) -> SpfVerdict:
    """The MAIL FROM identity, without angle brackets; for `<>` it is postmaster@HELO (RFC 7208 §2.4)."""
    sender = mail_from or f"postmaster@{helo}"
    domain = sender.rpartition("@")[2]
    return await check_host(ip, domain, sender, helo, resolver, receiver=receiver, clock=clock)


async def check_helo(
    ip: str | Ip, helo: str, resolver: Questions, *, receiver: str = "unknown", clock: Clock | None = None
) -> SpfVerdict:
    """The HELO identity (RFC 7208 §2.3)."""
    sender = f"postmaster@{helo}"
    return await check_host(ip, helo, sender, helo, resolver, identity="helo", receiver=receiver, clock=clock)


class _Undecidable(Exception):
    """check_host ends at once with `result`, permerror or temperror; `str()` says why."""

    def __init__(self, result: SpfResult, problem: str) -> None:
        self.result = result
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a domain's record says. record, domain: those that decided, after redirects."""

    result: SpfResult
    mechanism: str = ""
    problem: str = ""
    record: Record | None = None
    domain: str = ""


_NO_DOMAIN = _Found(SpfResult.NONE, problem="the domain can be no name with several labels")  # RFC 7208 §4.3


class _Check:
    """One check_host: what its macros stand for, what is counted over all its records, its trace."""

    def __init__(self, ip: Ip, sender: str, helo: str, resolver: Questions, receiver: str, clock: Clock) -> None:
        local, _, sender_domain = sender.rpartition("@")
        self._local = local or "postmaster"  # RFC 7208 §4.3
        self._sender_domain, self._helo, self._receiver = sender_domain, helo, receiver
        self._ip = ip
        self._resolver = resolver
        self._clock = clock
        self._names: list[str] | None = None  # of the client, confirmed
        self._names_void = False
        self._void = False  # the term at hand met a void answer
        self._trace = Trace()
        self.lookups = 0
        self.void_lookups = 0

    def trace(self) -> tuple[Step, ...]:
        if self.lookups >= WARN_LOOKUPS:
            warning = f"{self.lookups} of {MAX_LOOKUPS} terms with DNS lookups are used (RFC 7208 §4.6.4)"
            return (*self._trace.steps(), Step(0, "warning", warning))
        return self._trace.steps()

    async def evaluate(self, domain: str, depth: int) -> _Found:
        """RFC 7208 §4.3 to §4.7 for one domain. Raises _Undecidable."""
        domain = domain.lower()
        if not _can_exist(domain):
            return _NO_DOMAIN
        record = await self._record(domain, depth)
        if record is None:
            return _Found(SpfResult.NONE, problem=f"{domain} has no SPF record")
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain, depth):
                return _Found(mechanism.result, mechanism.text, record=record, domain=domain)
        if record.redirect and self._may_match(record.redirect):
            return await self._redirected(record.redirect, domain, depth)
        return _Found(SpfResult.NEUTRAL, record=record, domain=domain)  # RFC 7208 §4.7

    async def explain(self, where: MacroString, domain: str) -> str:
        """The text of exp= (RFC 7208 §6.2); "" when anything about it is wrong. Its lookups do not count."""
        if not self._may_match(where):
            return ""
        name = await self._name(where, domain, 0)
        if not _can_exist(name):
            return ""
        try:
            texts = await self._ask("TXT", name, 0, self._resolver.txt(name))
            if len(texts) != 1:
                return ""
            string = parse_macros(texts[0].decode("ascii"), spaces=True)
        except (DnsTrouble, MalformedSpf, UnicodeDecodeError):
            return ""
        if not self._may_match(string):
            return ""
        text = expand(string, await self._all_values(string, domain, 0))
        # A HELO or local part can bring in anything; this text is meant for people and for replies.
        return text[:MAX_EXPLANATION] if _PRINTABLE.match(text) else ""

    async def _record(self, domain: str, depth: int) -> Record | None:
        """RFC 7208 §4.4, §4.5; None without one. Raises _Undecidable."""
        texts = await self._ask_or_stop("TXT", domain, depth, self._resolver.txt(domain))
        for text in sender_ids_among(texts):
            self._trace.note(depth, shown(text), "ignored: Sender ID is obsolete (RFC 6686)")
        records = records_among(texts)
        for text in records:
            self._trace.note(depth, "record", shown(text))
        if len(records) > 1:
            raise _Undecidable(SpfResult.PERMERROR, f"{domain} has {len(records)} SPF records")
        if not records:
            return None
        try:
            record = parse_record(records[0])
        except MalformedSpf as error:
            raise _Undecidable(SpfResult.PERMERROR, f"{domain}: {error}") from None
        if record.ignored:
            self._trace.note(depth, "modifiers", f"ignored: {', '.join(record.ignored)}")
        return record

    async def _matches(self, mechanism: Mechanism, domain: str, depth: int) -> bool:
        """RFC 7208 §5. Raises _Undecidable."""
        place = self._trace.note(depth, mechanism.text)
        try:
            matched, why = await self._tried(mechanism, domain, depth + 1)
        except _Undecidable as error:
            self._trace.settle(place, f"{error.result}: {error}")
            raise
        self._trace.settle(place, f"{mechanism.result}: {why}" if matched else f"no match: {why}")
        return matched

    async def _tried(self, mechanism: Mechanism, domain: str, depth: int) -> tuple[bool, str]:
        if mechanism.name == "all":
            return True, "everyone"
        if mechanism.network:
            return self._ip in mechanism.network, f"the client is {self._ip}"
        if mechanism.domain and not self._may_match(mechanism.domain):
            return False, "the local part is not ASCII"
        self._count()
        target = await self._name(mechanism.domain, domain, depth) if mechanism.domain else domain
        if mechanism.name == "include":
            return await self._included(target, depth)
        if not _can_exist(target):
            return False, "the name cannot exist"
        self._void = False
        match mechanism.name:
            case "a":
                matched, why = await self._among([target], mechanism, depth)
            case "mx":
                matched, why = await self._exchanger(target, mechanism, depth)
            case "ptr":
                matched, why = await self._named(target, depth)
            case _:  # exists: an A record, also for an IPv6 client (RFC 7208 §5.7)
                matched = bool(await self._ask_or_stop("A", target, depth, self._resolver.a(target)))
                why = f"{target} exists" if matched else f"{target} does not exist"
        if self._void:
            # RFC 7208 §4.6.4 limits "the number of 'terms' for which DNS queries return" nothing: a term counts
            # once, however many of its hosts lack an address.
            self.void_lookups += 1
            if self.void_lookups > MAX_VOID_LOOKUPS:
                raise _Undecidable(SpfResult.PERMERROR, f"more than {MAX_VOID_LOOKUPS} void lookups")
        return matched, why

    async def _included(self, target: str, depth: int) -> tuple[bool, str]:
        """RFC 7208 §5.2: only a pass matches, and there must be a record."""
        found = await self.evaluate(target, depth)
        if found.result is SpfResult.NONE:
            raise _Undecidable(SpfResult.PERMERROR, f"include: {found.problem}")
        return found.result is SpfResult.PASS, f"{target} says {found.result}"

    async def _redirected(self, redirect: MacroString, domain: str, depth: int) -> _Found:
        """RFC 7208 §6.1: the other domain's result is ours, and there must be a record."""
        self._count()
        target = await self._name(redirect, domain, depth)
        self._trace.note(depth, f"redirect={target}", "followed")
        found = await self.evaluate(target, depth)
        if found.result is SpfResult.NONE:
            raise _Undecidable(SpfResult.PERMERROR, f"redirect: {found.problem}")
        return found

    async def _among(self, hosts: Sequence[str], mechanism: Mechanism, depth: int) -> tuple[bool, str]:
        """Whether the client is near an address of one of `hosts`, asked in their order."""
        bits = mechanism.prefix4 if self._ip.version == 4 else mechanism.prefix6
        own, beyond = int(self._ip), self._ip.max_prefixlen - bits  # the bits that do not count
        for host in hosts:
            for address in await self._addresses(host, depth):
                if int(address) >> beyond == own >> beyond:
                    return True, f"{host} has {address}"
        return False, f"no address of {', '.join(hosts)} is the client's" if hosts else "no hosts"

    async def _exchanger(self, target: str, mechanism: Mechanism, depth: int) -> tuple[bool, str]:
        """RFC 7208 §5.4: the implicit MX of RFC 5321 §5.1 does not count."""
        exchanges = await self._ask_or_stop("MX", target, depth, self._resolver.mx(target))
        hosts = [host for _, host in exchanges if _can_exist(host)]
        matched, why = await self._among(hosts[:MAX_HOSTS], mechanism, depth)
        if not matched and len(hosts) > MAX_HOSTS:  # RFC 7208 §4.6.4: an eleventh would have to be asked
            raise _Undecidable(SpfResult.PERMERROR, f"{target} has more than {MAX_HOSTS} MX hosts")
        return matched, why

    async def _named(self, target: str, depth: int) -> tuple[bool, str]:
        """RFC 7208 §5.5."""
        for name in await self._confirmed_names(depth):
            if _is_below(name, target):
                return True, f"the client is {name}"
        return False, f"the client has no name in {target}"

    async def _confirmed_names(self, depth: int) -> list[str]:
        """The client's names that have its address, in lower case; DNS trouble is no name (RFC 7208 §5.5, §7.3)."""
        if self._names is None:
            self._names, self._void = [], False
            try:
                found = await self._ask("PTR", self._ip.reverse_pointer, depth, self._resolver.ptr(self._ip))
            except DnsTrouble:
                found = []
            for name in sorted(found, key=str.lower)[:MAX_HOSTS]:
                try:
                    if _can_exist(name) and self._ip in await self._asked(name, depth):
                        self._names.append(name.lower())
                except DnsTrouble:
                    continue
            self._names_void = self._void
        self._void = self._names_void  # each ptr would have asked again, and found as much
        return self._names

    async def _name(self, string: MacroString, domain: str, depth: int) -> str:
        return expand_name(string, await self._all_values(string, domain, depth))

    async def _all_values(self, string: MacroString, domain: str, depth: int) -> dict[str, str]:
        ip, sender_domain = self._ip, domain_key(self._sender_domain)
        values = {
            "s": f"{self._local}@{sender_domain}",
            "l": self._local,
            "o": sender_domain,
            "d": domain,
            "i": dotted(ip),
            "p": "",
            "v": "in-addr" if ip.version == 4 else "ip6",
            "h": domain_key(self._helo),
            "c": str(ip),
            "r": self._receiver,
            "t": str(int(self._clock.time())),
        }
        if uses(string, "p"):  # RFC 7208 §7.3: the domain itself, else below it, else any
            names = await self._confirmed_names(depth)
            below = [name for name in names if _is_below(name, domain)]
            values["p"] = domain if domain in names else [*below, *names, "unknown"][0]
        return values

    def _may_match(self, string: MacroString) -> bool:
        """RFC 8616 §4: a local part that is not ASCII matches no term that would put it into a name."""
        return self._local.isascii() or not uses(string, "sl")

    def _count(self) -> None:
        if self.lookups == MAX_LOOKUPS:
            raise _Undecidable(SpfResult.PERMERROR, f"more than {MAX_LOOKUPS} terms with DNS lookups")
        self.lookups += 1

    async def _addresses(self, host: str, depth: int) -> Sequence[Ip]:
        """Of the client's family. Raises _Undecidable."""
        try:
            return await self._asked(host, depth)
        except DnsTrouble as error:
            raise _Undecidable(SpfResult.TEMPERROR, str(error)) from None

    async def _asked(self, host: str, depth: int) -> Sequence[Ip]:
        if self._ip.version == 4:
            return await self._ask("A", host, depth, self._resolver.a(host))
        return await self._ask("AAAA", host, depth, self._resolver.aaaa(host))

    async def _ask_or_stop(self, kind: str, name: str, depth: int, question: Awaitable[list[T]]) -> list[T]:
        try:
            return await self._ask(kind, name, depth, question)
        except DnsTrouble as error:
            raise _Undecidable(SpfResult.TEMPERROR, str(error)) from None

    async def _ask(self, kind: str, name: str, depth: int, question: Awaitable[list[T]]) -> list[T]:
        """The records; none for a void answer, which is remembered. Raises DnsTrouble."""
        start = self._clock.monotonic()
        records: list[T] = []
        found = ""
        try:
            records = await question
            found = ", ".join(shown(record) for record in records[:20])
        except (NoSuchName, NoData) as error:
            self._void = True
            found = "no such name" if isinstance(error, NoSuchName) else "no data"
        except DnsTrouble as error:
            found = str(error)
            raise
        finally:
            self._trace.note(depth, f"{kind} {name}", found, self._clock.monotonic() - start)
        return records


def _can_exist(name: str) -> bool:
    """Worth a question: several labels of a right length, a top label that is one. An EHLO of `[192.0.2.1]` is not."""
    labels = name.split(".")
    return len(labels) > 1 and is_top_label(labels[-1]) and askable(name)


def _is_below(name: str, domain: str) -> bool:
    """`name` is `domain` or a subdomain of it."""
    domain = domain.lower()
    return name == domain or name.endswith("." + domain)

"""All checks of one message at once, under one deadline and one allowance of DNS questions.

SPF may begin while the message still comes in (`EarlySpf`). DMARC's walk goes beside the other checks, and
is judged from their results at the end.

STANDARDS  RFC 7208 §2.3, §2.4 (HELO and MAIL FROM), RFC 9989 §5.3 (DMARC is judged on MAIL FROM and d=).
TRUSTS     nothing. Each check has questions of its own (SHARES), so that what a spoofer makes one of them ask
           (twenty signatures, a deep SPF record of his own) leaves no other without its answer.
FAILS      never: a check that runs out of time or has a bug is a temperror and says so, and the others keep
           their results.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from relay.address import Address
from relay.authenticate import arc, dkim, dmarc, iprev, spf
from relay.authenticate.again import again
from relay.authenticate.eager import begin, over
from relay.author import parse_author
from relay.clock import Clock, SystemClock
from relay.errors import MalformedAddress, MalformedMessage
from relay.fact import Fact, Record
from relay.message import Message
from relay.resolver import Budget, Resolver
from relay.verdict import (
    ArcResult,
    ArcVerdict,
    DkimResult,
    DkimVerdict,
    DmarcResult,
    DmarcVerdict,
    IprevResult,
    IprevVerdict,
    SpfResult,
    SpfVerdict,
    Verdicts,
)

SECONDS = 20.0  # for all checks together, unless told otherwise
# DNS questions of each check; 50 together. SPF's own limit is 10 terms (RFC 7208 §4.6.4), a walk takes 8.
SHARES = {"spf": 17, "helo": 6, "iprev": 4, "dkim": 5, "arc": 8, "dmarc": 10}
DNS_TIME = 0.7  # of the deadline: then DNS is over for all but DMARC, and what waits ends as a temperror of its own
CHECK_TIME = 0.8  # of the deadline: then a check is cut off; what is left is for DMARC to be judged

_LATE = "out of time"

T = TypeVar("T")
Ip = IPv4Address | IPv6Address
Sender = str | Address | None


class EarlySpf:
    """SPF of a transaction, begun at its first accepted RCPT. Give it to `authenticate`, or `cancel` it."""

    def __init__(
        self, ip: str | Ip, helo: str, mail_from: Sender, resolver: Resolver, *, seconds: float = SECONDS
    ) -> None:
        self.budget = resolver.budget(SHARES["spf"], seconds * DNS_TIME)
        self.verdict = _check_sender(ip, helo, mail_from, self.budget)

    def cancel(self) -> None:
        self.verdict.cancel()


async def authenticate(
    message: bytes | bytearray | memoryview | Message,
    ip: str | Ip,
    helo: str,
    mail_from: Sender,
    resolver: Resolver,
    *,
    clock: Clock | None = None,
    trusted_sealers: Collection[str] = (),
    spf: EarlySpf | None = None,
    seconds: float = SECONDS,
    record: Record | None = None,
    id: str = "",
) -> Verdicts:
    """Who says so, in all ways there are. Raises ValueError when `ip` is none.

    message: as it came, with CRLF line ends. mail_from: the reverse-path; None, "" or "<>" is the null one.
    trusted_sealers: domains whose ARC seals we believe. spf: of this transaction, already begun.
    seconds: the deadline. record, id: where a bug of ours is told, and about which message.
    """
    run = _Run(message, ip, helo, mail_from, resolver, clock or SystemClock(), seconds, record, id)
    return await run.verdicts(trusted_sealers, spf)


def _check_sender(ip: str | Ip, helo: str, mail_from: Sender, resolver: Budget) -> asyncio.Future[SpfVerdict]:
    """The MAIL FROM identity; for `<>` the name of HELO in its place, and the verdict says so."""
    if sender := _reverse_path(mail_from):
        return again(resolver, spf.check_mail_from, ip, sender, helo)
    return again(resolver, spf.check_helo, ip, helo)


def _reverse_path(mail_from: Sender) -> str:
    """Without angle brackets; "" for the null reverse-path."""
    return str(mail_from or "").removeprefix("<").removesuffix(">")


class _Run:
    """The checks of one message."""

    def __init__(
        self,
        message: bytes | bytearray | memoryview | Message,
        ip: str | Ip,
        helo: str,
        mail_from: Sender,
        resolver: Resolver,
        clock: Clock,
        seconds: float,
        record: Record | None,
        id: str,
    ) -> None:
        self._ip = ip_address(ip) if isinstance(ip, str) else ip
        self._helo, self._mail_from, self._clock = helo, mail_from, clock
        self._seconds, self._record, self._id = seconds, record, id
        self._budgets = resolver.budgets(SHARES, seconds * DNS_TIME)
        self._budgets["dmarc"] = resolver.budget(SHARES["dmarc"], seconds)
        self._content = b"" if isinstance(message, Message) else bytes(message)
        self._message, self._author, self._problem = _read(message)

    async def verdicts(self, trusted_sealers: Collection[str], early: EarlySpf | None) -> Verdicts:
        began = self._clock.monotonic()
        until = asyncio.get_running_loop().time() + self._seconds
        budgets, ip, helo = self._budgets, self._ip, self._helo
        if early:
            budgets["spf"] = early.budget
        walk: asyncio.Future[dmarc.Discovery | None]
        walk = again(budgets["dmarc"], dmarc.discover, self._author.domain) if self._author else over(None)
        sent = early.verdict if early else _check_sender(ip, helo, self._mail_from, budgets["spf"])
        hello = again(budgets["helo"], spf.check_helo, ip, helo) if _reverse_path(self._mail_from) else sent
        reverse = again(budgets["iprev"], iprev.check_iprev, ip, helo)
        signed = begin(self._check_dkim())
        chain = begin(self._check_arc(trusted_sealers))
        try:
            await _end_by(until - self._seconds * (1 - CHECK_TIME), sent, hello, reverse, signed, chain)
            await _end_by(until, walk)
        finally:
            _cut_off(walk, sent, hello, reverse, signed, chain)
        found, signatures = self._result("spf", sent, self._no_spf), self._result("dkim", signed, self._no_dkim)
        return Verdicts(
            spf=found,
            helo=found if hello is sent else self._result("helo", hello, self._no_helo),
            dkim=tuple(signatures),
            arc=self._result("arc", chain, self._no_arc),
            dmarc=await self._judge(until, self._result("dmarc", walk, _no_walk), found, signatures),
            iprev=self._result("iprev", reverse, self._no_iprev),
            seconds=self._clock.monotonic() - began,
            queries=sum([budget.queries for budget in budgets.values()]),
            steps=tuple([one.step for budget in budgets.values() for one in budget.asked]),
        )

    def _result(self, name: str, check: asyncio.Future[T], failed: Callable[[str], T]) -> T:
        """What the check found; `failed(why)` when it was cut off or has a bug."""
        if check.cancelled():
            return failed(_LATE)
        error = check.exception()
        if error is None:
            return check.result()
        if self._record:
            told = "".join(traceback.format_exception(error))
            values = {"check": name, "error": type(error).__name__, "traceback": told}
            self._record(Fact("authenticate.trouble", self._id, values, "error"))
        return failed("internal")

    # --- the checks ---------------------------------------------------------------------------------

    async def _check_dkim(self) -> Sequence[DkimVerdict]:
        resolver, now = self._budgets["dkim"], self._clock.time()
        if self._message is None:
            return await dkim.verify(self._content, resolver, time=now)
        return await dkim.verify_message(self._message, resolver, time=now)

    async def _check_arc(self, trusted: Collection[str]) -> ArcVerdict:
        resolver, now = self._budgets["arc"], self._clock.time()
        if self._message is None:
            return await arc.verify(self._content, resolver, trusted_sealers=trusted, time=now)
        return await arc.verify_message(self._message, resolver, trusted_sealers=trusted, time=now)

    async def _judge(
        self, until: float, walk: dmarc.Discovery | None, sent: SpfVerdict, signatures: Sequence[DkimVerdict]
    ) -> DmarcVerdict:
        if self._author is None:
            return DmarcVerdict(DmarcResult.PERMERROR, problem=self._problem)
        domain = self._author.domain_key
        if walk is None:
            return DmarcVerdict(DmarcResult.TEMPERROR, domain, problem="the policy could not be looked up")
        passed = sent.domain if sent.result is SpfResult.PASS else None
        signers = [one.domain for one in signatures if one.result is DkimResult.PASS]
        undecided = [sent.domain] if sent.result is SpfResult.TEMPERROR else []
        # Without a domain, DKIM as a whole came to nothing: any signature may have been the author's.
        undecided += [one.domain or domain for one in signatures if one.result is DkimResult.TEMPERROR]

        def failed(why: str) -> DmarcVerdict:
            return DmarcVerdict(DmarcResult.TEMPERROR, domain, problem=why)

        judged = again(self._budgets["dmarc"], dmarc.judge, walk, passed, tuple(signers), tuple(undecided))
        await _end_by(until, judged)
        return self._result("dmarc", judged, failed)

    # --- what a check says that came to nothing -----------------------------------------------------

    def _no_spf(self, why: str) -> SpfVerdict:
        sender = _reverse_path(self._mail_from)
        return _no_spf(sender.rpartition("@")[2] or self._helo, "mailfrom" if sender else "helo", why)

    def _no_helo(self, why: str) -> SpfVerdict:
        return _no_spf(self._helo, "helo", why)

    def _no_iprev(self, why: str) -> IprevVerdict:
        return IprevVerdict(IprevResult.TEMPERROR, self._ip, problem=why)

    def _no_dkim(self, why: str) -> Sequence[DkimVerdict]:
        return [DkimVerdict(DkimResult.TEMPERROR, problem=why)]

    def _no_arc(self, why: str) -> ArcVerdict:
        return ArcVerdict(ArcResult.FAIL, problem=why)  # RFC 8617 §5.2.1: it has no temperror


def _no_walk(why: str) -> None:
    return None


async def _end_by(when: float, *checks: asyncio.Future[Any]) -> None:
    """Wait until `checks` are over; those that are not at `when`, in the time of the loop, are cut off."""
    waiting = [check for check in checks if not check.done()]
    if waiting:
        seconds = max(0.0, when - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(waiting, timeout=seconds)
        _cut_off(*late)
        await asyncio.wait(waiting)


def _cut_off(*checks: asyncio.Future[Any]) -> None:
    for check in checks:
        check.cancel()


def _no_spf(domain: str, identity: str, why: str) -> SpfVerdict:
    return SpfVerdict(SpfResult.TEMPERROR, domain, identity, problem=why)


def _read(message: bytes | bytearray | memoryview | Message) -> tuple[Message | None, Address | None, str]:
    """The parsed message, its author, and why there is not one of them."""
    try:
        parsed = message if isinstance(message, Message) else dkim.parse_strictly(bytes(message))
    except MalformedMessage as error:
        return None, None, str(error)
    try:
        return parsed, parse_author(parsed), ""
    except MalformedAddress as error:
        return parsed, None, str(error)

"""DNS for all of the relay: one question, one answer, three ways to have none.

STANDARDS  RFC 1035 §2.3.4 (sizes of names), RFC 2308 (negative answers).
TRUSTS     what its name servers say (`resolver_query.py`).
FAILS      NoSuchName, NoData, DnsTrouble: never with an error of a library, never later than `timeout`.
           What can be no name is NoSuchName without a packet.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, cast

from relay.clock import Clock, SystemClock
from relay.errors import DnsTrouble, NoData, NoSuchName, ResolverError
from relay.resolver_cache import Answer, Cache, Question
from relay.resolver_query import Query, Tlsa, parse_nameserver, trouble
from relay.verdict import Step

__all__ = ["Budget", "DnsTrouble", "NoData", "NoSuchName", "Questions", "Resolver", "ResolverError", "Tlsa"]

MAX_NAME = 253  # octets without the final dot, RFC 1035 §2.3.4
MAX_LABEL = 63
MAX_IN_FLIGHT = 256  # questions of the whole relay that wait for a server at one time
MAX_CACHE_OCTETS = 16 * 1024 * 1024
_ABSENT: dict[type[ResolverError], str] = {NoSuchName: "no such name", NoData: "no data"}

_LABELS = re.compile(rf"[ -\-/-~]{{1,{MAX_LABEL}}}(?:\.[ -\-/-~]{{1,{MAX_LABEL}}})*\Z")  # no controls, no dots in them


class Questions(ABC):
    """What can be asked. Names are A-labels, the final dot may be missing, case does not matter.

    Each raises NoSuchName, NoData or DnsTrouble.
    """

    async def txt(self, name: str) -> list[bytes]:
        """Each record's strings joined (RFC 7208 §3.3, RFC 6376 §3.6.2.2); records in no particular order."""
        return cast(list[bytes], await self._records("TXT", name))

    async def a(self, name: str) -> list[IPv4Address]:
        return cast(list[IPv4Address], await self._records("A", name))

    async def aaaa(self, name: str) -> list[IPv6Address]:
        return cast(list[IPv6Address], await self._records("AAAA", name))

    async def mx(self, name: str) -> list[tuple[int, str]]:
        """Preference and exchange, the best first; the exchange of a null MX is "" (RFC 7505 §3)."""
        found = cast(list[tuple[int, str]], await self._records("MX", name))
        return sorted((preference, host) for preference, host in found if _plain(host))

    async def ptr(self, ip: IPv4Address | IPv6Address) -> list[str]:
        """The names of `ip`, without final dots; which of them are true is not known yet."""
        return [name for name in cast(list[str], await self._records("PTR", ip.reverse_pointer)) if _plain(name)]

    async def tlsa(self, name: str) -> list[Tlsa]:
        """`name` is the whole of it: `_25._tcp.mail.example.org` (RFC 6698 §3)."""
        return cast(list[Tlsa], await self._records("TLSA", name))

    async def _records(self, kind: str, name: str) -> list[object]:
        question = _question(kind, name)
        if question is None:
            raise NoSuchName(f"what was asked for {kind} can be no name")
        answer = await self._ask(question)
        if answer.error is not None:
            raise answer.error(answer.text)
        return list(answer.records)

    @abstractmethod
    async def _ask(self, question: Question) -> Answer:
        """The answer to a question that may be asked; errors are in it, not raised."""


@lru_cache(4096)  # names come again and again; 3 MB at most
def _question(kind: str, name: str) -> Question | None:
    """None for what can be no name."""
    question = Question(kind, name.removesuffix(".").lower())
    return question if askable(question.name) else None


def askable(name: str) -> bool:
    """Whether `name`, without the final dot, fits a DNS question: ASCII, labels of 1–63 octets, 253 in all."""
    return len(name) <= MAX_NAME and _LABELS.match(name) is not None


def _plain(name: str) -> bool:
    """No space and no escape of an odd octet: a host has neither in its name."""
    return name.isascii() and name.isprintable() and not set(name) & {" ", "\\"}


class Resolver(Questions):
    """Answers are kept by their TTL; who asks what is being asked already waits for that answer.

    nameservers: `address` or `address:port`; none: the system's. Raises ValueError for what is neither.
    timeout: seconds for one question, tries included. negative_ttl: seconds that NoSuchName and NoData are kept;
    c-ares beneath may keep them that long again.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        timeout: float = 5.0,
        *,
        clock: Clock | None = None,
        negative_ttl: float = 60.0,
        max_entries: int = 10_000,
    ) -> None:
        self._nameservers = [parse_nameserver(server) for server in nameservers]
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._negative_ttl = negative_ttl
        self._cache = Cache(max_entries, MAX_CACHE_OCTETS)
        self.cached = self._cache.get
        self._in_flight: dict[Question, asyncio.Task[Answer]] = {}
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._query: Query | None = None
        self._closed = False

    def budget(self, queries: int = 50, seconds: float = 20.0) -> Budget:
        """A view on this resolver for one message; see Budget."""
        return Budget(self, queries, self._clock.monotonic() + seconds, self._clock)

    def budgets(self, queries: Mapping[str, int], seconds: float) -> dict[str, Budget]:
        """As many, by name, each with its own number of queries."""
        deadline = self._clock.monotonic() + seconds
        return {name: Budget(self, number, deadline, self._clock) for name, number in queries.items()}

    async def close(self) -> None:
        """Questions under way end as DnsTrouble."""
        self._closed = True
        waiting = list(self._in_flight.values())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._query:
            await self._query.close()
            self._query = None

    async def _ask(self, question: Question) -> Answer:
        return self.cached(question, self._clock.monotonic()) or await self.ask(question)

    async def ask(self, question: Question, seconds: float | None = None) -> Answer:
        """The answer of a server. Raises TimeoutError when it takes longer than `seconds`; others may wait on."""
        if self._closed:
            return Answer(error=DnsTrouble, text="the resolver is closed")
        task = self._in_flight.get(question)
        if task is None:
            task = asyncio.create_task(self._ask_servers(question))
            self._in_flight[question] = task
            task.add_done_callback(lambda _: self._in_flight.pop(question, None))
        await asyncio.wait([task], timeout=seconds)  # one who stops waiting does not end it for the others
        if not task.done():
            raise TimeoutError
        if task.cancelled():
            return Answer(error=DnsTrouble, text="the resolver was closed")
        return task.result()

    async def _ask_servers(self, question: Question) -> Answer:
        try:
            async with asyncio.timeout(self._timeout), self._room:
                if self._query is None:
                    self._query = Query(self._nameservers, self._timeout, self._negative_ttl, self._clock)
                answer = await self._query.ask(question)
        except TimeoutError:
            return trouble(question, f"no answer within {self._timeout:g} s")
        self._cache.put(question, answer, self._clock.monotonic())
        return answer


class Asked(NamedTuple):
    """A question that was asked, and how that is told to people."""

    question: Question
    answer: Answer
    step: Step


class Budget(Questions):
    """The questions of one message: how many may reach a server, and for how long it may wait for them.

    Past either limit a question is DnsTrouble; an answer out of the cache is free.
    `queries` counts those that were not in the cache; `steps` has every question with its seconds.
    """

    def __init__(self, resolver: Resolver, queries: int, deadline: float, clock: Clock) -> None:
        """deadline: monotonic."""
        self.queries = 0
        self.asked: list[Asked] = []
        self._resolver = resolver
        self._max_queries = queries
        self._clock = clock
        self._deadline = deadline

    @property
    def steps(self) -> list[Step]:
        return [one.step for one in self.asked]

    def repeat(self, asked: Sequence[Asked]) -> bool:
        """Ask all of that once more, if every answer still is the very one in the cache; else nothing."""
        now = self._clock.monotonic()
        for one in asked:
            if self._resolver.cached(one.question, now) is not one.answer:
                return False
        self.asked += asked
        return True

    async def _ask(self, question: Question) -> Answer:
        start, seconds = self._clock.monotonic(), 0.0
        answer = self._resolver.cached(question, start)
        if answer is None:
            answer = await self._ask_within(question, start)
            seconds = self._clock.monotonic() - start
        step = Step(0, f"{question.kind} {question.name}", found(answer), seconds)
        self.asked.append(Asked(question, answer, step))
        return answer

    async def _ask_within(self, question: Question, now: float) -> Answer:
        if self.queries >= self._max_queries or now >= self._deadline:
            return Answer(error=DnsTrouble, text="over the budget of DNS questions for one message")
        self.queries += 1
        try:
            return await self._resolver.ask(question, self._deadline - now)
        except TimeoutError:
            return Answer(error=DnsTrouble, text="over the budget of DNS time for one message")


def found(answer: Answer) -> str:
    """An answer in a few words for people: the number of records, or what went wrong."""
    if answer.error is not None:
        return _ABSENT.get(answer.error, answer.text)
    return f"{len(answer.records)} record{'s' if len(answer.records) > 1 else ''}"

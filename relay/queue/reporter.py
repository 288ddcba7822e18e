"""Tells senders what became of their mail: builds the reports that are due, signs them, and puts them into the queue.

A report goes in with the transaction that takes its recipients off the list of those to be reported, so a crash
leaves either both or neither, and of two relays that build the same report one puts it in.

TRUSTS     nothing in the mail: `bounce.py` says what becomes of it.
FAILS      what cannot be reported now (a key or the database is missing, a mistake of ours) stays to be reported,
           and is tried again later; others do not wait for it. A report that no route takes is held.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address

from relay.address import Address
from relay.capabilities import Capabilities
from relay.clock import Clock
from relay.config.models import Config
from relay.envelope import Client, Envelope, new_id
from relay.errors import MalformedMessage, RelayError
from relay.fact import Fact, Record
from relay.message import Message
from relay.queue import bounce
from relay.queue.delivery_status import action
from relay.queue.engine import CommitUnknown, NotKept, Unavailable
from relay.queue.entry import Entry, Queued, Recipient
from relay.queue.schedule import Schedule
from relay.queue.states import State
from relay.queue.store import Store

POLL = 5.0  # seconds; another process may have made something due
REST = 0.2  # seconds between two looks: what fails together is looked for once
AGAIN = 60.0  # seconds until what could not be reported is tried again
AT_ONCE = 100  # messages
UNROUTED = "(none)"  # stands for the hop of a held report; no configured hop can be called so
NO_ROUTE = "no route for the report"

_SEVEN_BITS = Capabilities()

Sign = Callable[[Message, Address | None, str], Awaitable[Message]]
Route = Callable[[Envelope, Address], str | None]


class Reporter:
    """One for each queue. config: what is in force now. sign: as `relay.edit.sign.Signer.sign`.

    route: the hop that takes a report with this envelope for this address; None if there is none. takes: what
    a hop takes.
    """

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        sign: Sign,
        route: Route,
        takes: Callable[[str], Capabilities],
        clock: Clock,
        record: Record,
    ) -> None:
        self._store, self._config = store, config
        self._sign, self._route, self._takes = sign, route, takes
        self._clock, self._record = clock, record
        self._set_aside: dict[str, float] = {}  # message: until when, monotonic
        self._due, self._is_stopping = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reporter")

    def wake(self) -> None:
        """Something may have become due."""
        self._due.set()

    async def stop(self) -> None:
        """Finish the report at hand; what is left is there at the next start."""
        self._is_stopping.set()
        self._due.set()
        if self._task is not None:
            await self._task

    async def report_due(self) -> bool:
        """Report what is due, at most so many messages. Whether there may be more. Raises NotKept."""
        now = self._clock.monotonic()
        self._set_aside = {id: until for id, until in self._set_aside.items() if until > now}
        limit = AT_ONCE + len(self._set_aside)
        found = await self._store.reportable(limit)
        for queued in found:
            if queued.envelope.id in self._set_aside or self._is_stopping.is_set():
                continue
            try:
                await self._report(queued)
            except (Unavailable, CommitUnknown):
                raise  # the next one would find the same
            except Exception as error:
                self._set_aside[queued.envelope.id] = now + AGAIN
                self._tell_trouble(queued.envelope.id, error)
        return len(found) == limit

    async def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._due.clear()
            more, pause, until = False, POLL, self._due
            try:
                more = await self.report_due()
            except Exception as error:
                self._tell_trouble("", error)
                # Every failure that the worker settles would wake us, to find the same. A database comes back soon.
                pause, until = POLL if isinstance(error, NotKept) else AGAIN, self._is_stopping
            if not more:
                await _wait(self._is_stopping, REST)
                await _wait(until, pause)

    async def _report(self, queued: Queued) -> None:
        """One report about all of them, or none; then they are done."""
        config, now = self._config(), self._clock.time()
        told, to = bounce.told(queued), bounce.addressee(queued, config.hostname)
        if not told or to is None:
            await self._pass_over(queued)
            return
        envelope = _envelope(to, config.hostname, now)
        hop = self._route(envelope, to)
        takes = _SEVEN_BITS if hop is None else self._takes(hop)
        message = await self._content(queued.envelope.id)
        report = bounce.build(queued, told, message, envelope.id, now, config.hostname, config.bounce, takes)
        report = await self._sign(report, bounce.author(config.bounce, config.hostname), envelope.id)
        envelope.eight_bit = not bytes(report).isascii()
        envelope.smtputf8 = not (to.is_ascii and report.header.isascii())
        expires = Schedule.of(config.queue, config.bounce).expires(now, is_bounce=True)
        recipient = Recipient(to, hop or UNROUTED, due=now, expires=expires)
        if hop is None:
            recipient = Recipient(to, UNROUTED, State.HELD, expires=expires, cause=NO_ROUTE)
        if not await self._store.report(queued, Entry(envelope, report, now, False, (recipient,))):
            return  # an operator or another relay was faster
        values = {
            "report": envelope.id,
            "hop": recipient.hop,
            "sender": str(to),
            "action": action(told[0]).value,  # the gravest
            "to": [str(one.address) for one in told],
        }
        self._record(Fact("queue.reported", queued.envelope.id, values))
        if hop is None:
            self._record(Fact("queue.held", envelope.id, {"to": [str(to)], "cause": NO_ROUTE}, "warning"))

    async def _content(self, id: str) -> Message | None:
        """The mail that failed; None if it cannot be read: the report can do without."""
        content = await self._store.content(id)
        try:
            return Message.parse(content) if content is not None else None
        except MalformedMessage:
            return None

    async def _pass_over(self, queued: Queued) -> None:
        """There is nobody to tell, or he does not want to hear it."""
        ended = [str(one.address) for one in queued.recipients if one.state is State.REPORT]
        if await self._store.report(queued, None) and ended:
            self._record(Fact("queue.unreported", queued.envelope.id, {"to": ended}, "warning"))

    def _tell_trouble(self, id: str, error: Exception) -> None:
        values: dict[str, object] = {"cause": f"{type(error).__name__}: {error}"}
        if not isinstance(error, RelayError):
            values["traceback"] = "".join(traceback.format_exception(error))
        self._record(Fact("queue.report_trouble", id, values, "error"))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _envelope(to: Address, hostname: str, now: float) -> Envelope:
    """RFC 3461 §6.1: from `<>`, to the reverse-path, without RET. No listener's: routes of listeners are not for it.

    Nor with NOTIFY=NEVER, as it may be: what fails with that is dropped, and a report that fails is to be held.
    """
    client = Client("", "", IPv4Address("127.0.0.1"), 0, helo=hostname)
    return Envelope(new_id(now), client, None, recipients=[to])

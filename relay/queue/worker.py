"""What takes mail out of the queue: it claims what is due, keeps each hop busy and no busier, and settles.

One loop claims, for all hops; each attempt is a task. A new message whose hop is up need not be read back: it is
claimed in the commit that keeps it, and goes out from memory, which halves the work. What waits there is bounded
(`spool.py`, `destination.py`); the rest waits in the database alone, and takes turns with it. In a burst no attempt
begins (`burst.py`), unless half of what may wait in memory does.

A message whose last chances have come, by its crashes, is a suspect. Suspects are tried one at a time, so that none is
held for what another does; who is none goes on beside it, and is one himself before he could be held.

Leases are renewed for as long as anything runs, and what others let lapse is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.clock import Clock
from relay.errors import MalformedMessage
from relay.fact import Fact, Record
from relay.message import CHUNK, Message
from relay.outcome import NextHop, Outcome
from relay.queue.attempt import Attempts
from relay.queue.burst import Burst
from relay.queue.destination import CONNECTIONS, NEW, Change, Destination, Destinations
from relay.queue.engine import NotKept
from relay.queue.entry import Delivery, Entry, Selection
from relay.queue.operations import ANY_CRASHES
from relay.queue.schedule import Schedule
from relay.queue.spool import Spool
from relay.queue.states import Move, State
from relay.queue.store import Store
from relay.reply import Reply, queued

POLL = 1.0  # seconds: another process, or an operator, may have put something into the queue
EXPIRY = 30.0  # seconds between two looks for what nobody will be asked to take any more
EXPIRED_AT_ONCE = 100  # messages
CHANCES = 2  # attempts that a suspect has; by itself it needs them both to be held
CLOCK_JUMP = 60.0  # seconds backwards that are no mere correction


class Worker:
    """hops: the next hops now, by name. limits: connections that each may have; asked at every attempt.

    chance: in [0, 1). spool: octets of messages in memory at once. lease: seconds, as the store has it.
    """

    def __init__(
        self,
        store: Store,
        hops: Callable[[], Mapping[str, NextHop]],
        limits: Callable[[], Mapping[str, int]],
        schedule: Callable[[], Schedule],
        clock: Clock,
        record: Record,
        chance: Callable[[], float],
        spool: int,
        lease: float,
    ) -> None:
        self._store, self._hops, self._limits, self._schedule = store, hops, limits, schedule
        self._clock, self._record, self._chance, self._lease = clock, record, chance, lease
        self._spool = Spool(spool)
        self._attempts = Attempts(store, schedule, clock, record, chance)
        self._destinations: Destinations[Delivery] = Destinations()
        self._backlog: set[str] = set()  # hops for which something in the database is due, as far as we know
        self._suspected_from = suspected_from(store.crashes)
        self._suspect: Delivery | None = None
        self._suspicious: set[str] = set()  # hops where the next one may be a suspect
        self._seen: dict[str, NextHop] = {}  # the hops, when it was last looked
        self._unknown: set[str] = set()
        self._burst = Burst(self._begin)
        self._look_at = self._expire_at = 0.0  # monotonic: when to ask the database again
        self._drift = clock.time() - clock.monotonic()
        self._awake = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._leases: asyncio.Task[None] | None = None
        self._is_stopping = self._is_in_trouble = False

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._run(), name="queue worker")
        self._leases = asyncio.create_task(self._keep_leases(), name="queue leases")

    async def drain(self, seconds: float) -> None:
        """End: begin nothing, give back what has not begun, wait for the rest; whoever is told to hurry comes back.

        seconds: for the database, should it be in trouble. Deliveries behind their final dot are waited for.
        """
        self._is_stopping = True
        self._burst.close()
        self._attempts.stop(seconds)
        self._awake.set()
        if self._loop is not None:
            await self._loop
        await self._give_back(self._destinations.take_ready())
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._leases is not None:
            self._leases.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._leases

    def wake(self) -> None:
        """Something may be due: an operator moved it, or the configuration is another."""
        self._look_at = self._expire_at = 0.0
        self._awake.set()

    def flush(self, hop: str) -> None:
        """Try a hop again that was found down."""
        self._forget(hop, "flushed")
        self.wake()

    def _forget(self, hop: str, cause: str) -> None:
        if self._destinations[hop].is_down:
            self._destinations[hop].forget()
            self._backlog.add(hop)
            self._record(Fact("queue.up", "", {"hop": hop, "cause": cause}))

    def is_down(self, hop: str) -> bool:
        """It took no connection lately, and it is not yet time to try it again."""
        return self._destinations[hop].is_down

    # --- a new message ---------------------------------------------------------------------------

    async def keep(self, entry: Entry, until: float) -> Reply:
        """Commit a message, and answer for it; or say why not. until: on the monotonic clock."""
        size, now = entry.message.size, self._clock.time()
        due = {one.hop for one in entry.recipients if one.state is State.WAITING and one.due <= now}
        later = {one.hop for one in entry.recipients if one.state is State.WAITING and one.due > now}
        born = {hop for hop in due - later if self._may_be_born(hop) and self._spool.try_take(hop, size)}
        for hop in born:
            self._destinations[hop].coming += 1
        self._burst.begin_message()
        deliveries: Sequence[Delivery] = ()
        try:
            deliveries = await self._store.keep(entry, until, claim=born)
        except NotKept as trouble:
            return trouble.reply
        finally:
            self._burst.end_message()
            for hop in born:
                self._destinations[hop].coming -= 1
            for hop in born.difference(one.hop for one in deliveries):
                self._spool.give(hop, size)
        if due - born:
            self._backlog |= due - born
            self._awake.set()
        await self._take(deliveries, are_new=True)
        return queued(entry.envelope.id)

    def _may_be_born(self, hop: str) -> bool:
        return not self._is_stopping and hop in self._hops() and self._destinations[hop].takes_new

    # --- what is due -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._is_stopping:
            self._awake.clear()
            try:
                await self._notice_hops()
                await self._look()
                while not self._is_stopping and await self._claim():  # what is claimed too late goes back, due
                    pass
                await self._expire()
                self._is_in_trouble = False
            except Exception as error:
                self._tell_trouble(error)
                await self._clock.sleep(POLL)
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Until there is something to do."""
        now, retries = self._clock.monotonic(), [self._destinations[hop].retry_at for hop in self._backlog]
        until = min(self._look_at, self._expire_at, *(one for one in retries if one is not None and one > now))
        timer = asyncio.get_running_loop().call_later(max(0.0, until - now), self._awake.set)
        await self._awake.wait()
        timer.cancel()

    async def _look(self) -> None:
        """Find out whether anything is due."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + POLL
        await self._mind_clock()
        asked = [hop for hop in self._hops() if hop not in self._backlog and self._wants(hop)]
        wait = await self._store.due_in(asked) if asked else None
        if wait is None:
            return
        if wait <= 0:
            self._backlog.update(asked)
        else:
            self._look_at = min(self._look_at, now + wait)

    async def _mind_clock(self) -> None:
        """What was to be due in an hour would be due in a day and an hour, had the clock gone back by a day."""
        before, self._drift = self._drift, self._clock.time() - self._clock.monotonic()
        if self._drift < before - CLOCK_JUMP and not self._store.is_shared:
            moved = await self._store.move(Selection(state=State.WAITING), Move.RETRY)
            values = {"seconds": round(before - self._drift, 1), "recipients": moved}
            self._record(Fact("queue.clock_back", "", values, "warning"))

    async def _claim(self) -> bool:
        """Claim for every hop that has room and something to do; whether anything was claimed."""
        self._backlog &= self._hops().keys()
        wanted = {hop: count for hop in self._backlog if (count := self._wants(hop))}
        self._backlog -= wanted.keys()  # what comes meanwhile puts it back
        is_suspect_out = self._suspect is not None
        below = self._suspected_from - 1 if is_suspect_out else ANY_CRASHES  # the present claim would be one more
        claims = (
            self._store.claim(hop, count, below if hop in self._suspicious else ANY_CRASHES)
            for hop, count in wanted.items()
        )
        answers = await asyncio.gather(*claims, return_exceptions=True)
        claimed: list[Delivery] = []
        troubles: list[BaseException] = []
        for (hop, count), answer in zip(wanted.items(), answers, strict=True):
            if isinstance(answer, BaseException):
                troubles.append(answer)
                self._backlog.add(hop)
                continue
            claimed += answer
            # The limit counts recipients, though each of them brings all of its message.
            if sum(len(one.queued.recipients) for one in answer) >= count:
                self._backlog.add(hop)
            if not is_suspect_out and not any(map(self._is_suspect, answer)):
                self._suspicious.discard(hop)
        await self._take(await self._read_small(claimed))
        if troubles:
            raise troubles[0]
        return bool(claimed)

    async def _expire(self) -> None:
        """Mail whose time is over does not wait for a hop that is down, or that nobody knows."""
        if (now := self._clock.monotonic()) < self._expire_at:
            return
        self._expire_at = now + EXPIRY
        is_more = True
        while is_more and not self._is_stopping:
            hops, found = self._hops(), await self._store.claim_expired(EXPIRED_AT_ONCE)
            over: list[Delivery] = []
            open_: list[Delivery] = []
            for one in found:
                has_end = one.hop not in hops or self._destinations[one.hop].is_down
                (over if has_end else open_).append(one)
            await self._take(open_)
            await asyncio.gather(*(self._attempts.expire(one, self._destinations[one.hop].said) for one in over))
            is_more = bool(over) and len(found) >= EXPIRED_AT_ONCE

    async def _notice_hops(self) -> None:
        """At the start, and when a reload has made others: one that was down may be mended, one may be gone."""
        hops = dict(self._hops())
        if hops == self._seen:
            return
        for hop in hops:  # before anything is awaited, lest what is learnt meanwhile be forgotten
            self._forget(hop, "reloaded")
        unknown = {one.hop for one in await self._store.depth() if one.state is State.WAITING} - hops.keys()
        for hop in sorted(unknown - self._unknown):  # told once
            self._record(Fact("queue.unknown_hop", "", {"hop": hop}, "warning"))
        self._seen, self._unknown = hops, unknown

    def _connections(self, hop: str) -> int:
        return self._limits().get(hop, CONNECTIONS)

    def _wants(self, hop: str) -> int:
        count = self._destinations[hop].wants(self._clock.monotonic(), self._connections(hop))
        return min(1, count) if hop in self._suspicious and self._suspect is None else count

    # --- attempts --------------------------------------------------------------------------------

    async def _read_small(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """With the content of small messages, which are read together: each by itself costs as much as all the rest."""
        small = [
            one for one in deliveries if one.queued.size <= CHUNK and self._spool.try_take(one.hop, one.queued.size)
        ]
        contents: dict[str, bytes] = {}
        if small:
            with contextlib.suppress(NotKept):  # the attempt itself asks again
                contents = await self._store.contents({one.queued.envelope.id for one in small})
        read = {}
        for one in small:
            try:
                read[id(one)] = replace(one, message=Message.parse(contents[one.queued.envelope.id]))
            except (KeyError, MalformedMessage):  # told by the attempt
                self._spool.give(one.hop, one.queued.size)
        return [read.get(id(one), one) for one in deliveries]

    async def _take(self, deliveries: Sequence[Delivery], *, are_new: bool = False) -> None:
        """What was claimed waits for its turn, or goes back."""
        back, suspect, now = [], None, self._clock.monotonic()
        for one in deliveries:
            destination = self._destinations[one.hop]
            if self._is_stopping or not destination.may_wait(now, self._connections(one.hop)):
                back.append(one)
            elif are_new:
                destination.new.append(one)
            elif not self._is_suspect(one):
                destination.ready.append(one)
            else:
                self._suspicious.add(one.hop)
                self._backlog.add(one.hop)
                if self._suspect is None:
                    self._suspect = suspect = one
                else:
                    back.append(one)
        await self._give_back(back)
        if suspect is not None:  # behind the others' return, lest it takes them along
            self._destinations[suspect.hop].ready.append(suspect)
        self._begin()

    def _begin(self) -> None:
        """Begin what there is room for."""
        if self._burst.is_first and self._destinations.new < NEW // 2 and not self._spool.is_filling:
            return
        now, limits = self._clock.monotonic(), self._limits()
        while not self._is_stopping and (turn := self._destinations.begin(now, limits)) is not None:
            self._spawn(self._attempt(turn))

    async def _attempt(self, delivery: Delivery) -> None:
        size = delivery.queued.size
        if delivery.message is None:
            await self._spool.take(delivery.hop, size)
        try:
            hop = self._hops().get(delivery.hop)
            if hop is None or self._is_stopping:
                self._ended(delivery, None)
                await self._attempts.give_back((delivery,))
                return
            outcomes = None
            try:
                outcomes = await self._attempts.send(delivery, hop)
            finally:
                self._ended(delivery, outcomes)
            if outcomes is not None:
                await self._attempts.settle(delivery, outcomes, offers_dsn=hop.capabilities.dsn)
        except NotKept:
            pass  # the relay ends, and the database takes nothing: it lapses
        except Exception as error:
            self._tell_trouble(error, delivery)
        finally:
            self._spool.give(delivery.hop, size)

    def _ended(self, delivery: Delivery, outcomes: Sequence[Outcome] | None) -> None:
        """What an attempt says of its hop; there is room for the next one. None: it says nothing."""
        destination, change = self._destinations[delivery.hop], None
        self._acquit(delivery)
        if outcomes is None or self._is_stopping:
            destination.leave(delivery)
        else:
            now, connections = self._clock.monotonic(), self._connections(delivery.hop)
            change = destination.end(delivery, outcomes, now, connections, self._probe_delay)
        if change is not None:
            self._changed(delivery.hop, destination, change)
        self._begin()
        if self._backlog:
            self._awake.set()

    def _acquit(self, delivery: Delivery) -> None:
        """If it was the suspect, it is another's turn."""
        if delivery is self._suspect:
            self._suspect = None
            self._backlog |= self._suspicious

    def _probe_delay(self, failures: int) -> float:
        return self._schedule().delay(failures, self._chance())

    def _changed(self, hop: str, destination: Destination[Delivery], change: Change) -> None:
        self._backlog.add(hop)
        if change is Change.UP:
            self._record(Fact("queue.up", "", {"hop": hop}))
            return
        now, cause = self._clock.monotonic(), destination.said.cause if destination.said else ""
        retry_seconds = round((destination.retry_at or now) - now, 1)
        self._record(Fact("queue.down", "", {"hop": hop, "cause": cause, "retry_seconds": retry_seconds}, "warning"))
        self._spawn(self._give_back(self._destinations.take_ready(hop)))

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """They have not begun."""
        for one in deliveries:
            self._acquit(one)
            if one.message is not None:
                self._spool.give(one.hop, one.queued.size)
        with contextlib.suppress(NotKept):  # as above
            await self._attempts.give_back(deliveries)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- leases ----------------------------------------------------------------------------------

    async def _keep_leases(self) -> None:
        """Renew ours, and only then take back what has lapsed: a process that was frozen finds its own first."""
        turns = 0
        while True:
            await self._clock.sleep(self._lease / 3)
            turns += 1
            try:
                await self._store.renew()
                if turns % 3 == 0 and await self._store.lapse():
                    self.wake()
            except Exception as error:
                self._tell_trouble(error)

    def _tell_trouble(self, error: Exception, delivery: Delivery | None = None) -> None:
        """Of the database once until it is well again; of our own mistakes always."""
        values = {"cause": f"{type(error).__name__}: {error}"}
        if isinstance(error, NotKept):
            if self._is_in_trouble:
                return
            self._is_in_trouble, values = True, {"cause": error.cause}
        else:
            values["traceback"] = "".join(traceback.format_exception(error))
        self._record(Fact("queue.trouble", delivery.queued.envelope.id if delivery else "", values, "error"))

    def _is_suspect(self, delivery: Delivery) -> bool:
        return any(recipient.crashes >= self._suspected_from for recipient in delivery.queued.recipients)


def suspected_from(crashes: int) -> int:
    """Claims in a row without an outcome, the present one included, that make a suspect. crashes: that hold it."""
    return max(2, crashes - CHANCES + 1)  # a first attempt is suspected of nothing

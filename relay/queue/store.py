"""The queue as its users see it: messages are kept, claimed, settled and reported; all trouble is NotKept, and heals.

Each method is one operation, written by group commit or read on a snapshot. The store knows what was claimed by
way of it: that is what `renew` keeps. A claim that nobody received is given back, and one of which nobody
knows, since the answer to its commit was lost, ends with its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

from relay.clock import Clock
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.queue import operations, reading, reports, selection
from relay.queue.disk import Disk
from relay.queue.engine import CommitUnknown, Engine, NoRoom, NotKept, Operation, Unavailable
from relay.queue.entry import EVERYTHING, Delivery, Depth, Entry, Moved, Queued, Selection, Settlement
from relay.queue.group_commit import GroupCommit, Settle, Work
from relay.queue.operations import ANY_CRASHES, Claim, Keep, Lapsed, bind
from relay.queue.statements import Key
from relay.queue.states import Move

MOVED_AT_ONCE = 500  # messages in one transaction of `move`: mail gets in between

T = TypeVar("T")


class Store:
    """owner: of claims, unique for each start of a process. lease: seconds. crashes: attempts that ended with

    their process, until a recipient is HELD. first_retry: seconds; what crashed twice waits as long.
    disk: None where the database is elsewhere.
    """

    def __init__(
        self,
        engine: Engine,
        owner: str,
        lease: float,
        crashes: int,
        clock: Clock,
        record: Record,
        *,
        first_retry: float = 300.0,
        disk: Disk | None = None,
    ) -> None:
        self._engine = engine
        self._owner = owner
        self._lease = lease
        self.crashes = crashes
        self._clock = clock
        self._record = record
        self._first_retry = first_retry
        self._disk = disk
        self._tokens = count(1)
        self._held: dict[Key, str] = {}  # what was claimed and not yet settled, with its token
        self._unknown: set[str] = set()  # tokens of claims whose commit had no answer
        self._commits = GroupCommit(
            engine, clock, record, self._new_claim, self._disown, self._committed, self._give_up
        )
        self._is_open = False
        self._is_supervisor = False

    @property
    def is_shared(self) -> bool:
        return self._engine.is_shared

    @property
    def owner(self) -> str:
        """Of our claims, for `lapse`."""
        return self._owner

    async def open(self, *, is_supervisor: bool) -> None:
        """Ready for use. is_supervisor: nobody else has the file, and what is ACTIVE in it belongs to the dead.

        Raises ConfigError.
        """
        await self._engine.open()
        self._is_open = True
        if is_supervisor and not self.is_shared:
            try:
                await self._take_over()
            except NotKept as error:
                raise ConfigError(Problem("queue", "", f"it cannot be opened: {error.cause}")) from error
            self._is_supervisor = True  # from here on a close is a clean stop

    async def _take_over(self) -> None:
        if not await self._read(reading.was_clean):
            began = self._clock.monotonic()
            if damage := await self._read(reading.damage):
                raise ConfigError(Problem("queue", "", f"the database is damaged: {damage}"))
            elapsed = round((self._clock.monotonic() - began) * 1000, 1)
            self._record(Fact("queue.checked", "", {"elapsed_ms": elapsed}))
        await self._write(bind(reading.set_clean, False))
        self._tell_lapsed(await self._write(bind(operations.lapse_all, self.crashes, self._first_retry)))

    async def close(self) -> None:
        """Finish what was handed over, then close the engine."""
        if self._is_open:
            self._is_open = False
            await self._commits.finish()
            if self._is_supervisor:
                with contextlib.suppress(NotKept):
                    await self._engine.transact([bind(reading.set_clean, True)])
        await self._engine.close()

    # --- a message's way -------------------------------------------------------------------------

    async def keep(self, entry: Entry, until: float, *, claim: Collection[str] = ()) -> tuple[Delivery, ...]:
        """Commit a message. Behind this it is ours; raises NotKept, and then it is not.

        until: on the monotonic clock; what has not begun by then is not kept.
        claim: hops; WAITING recipients of theirs come back claimed, a delivery for each hop.
        """
        try:
            if self._disk is not None and self._disk.is_low():
                raise NoRoom("the disk is nearly full")
            deliveries: tuple[Delivery, ...] = await self._ask(Keep(entry, frozenset(claim)), until)
        except NotKept as error:
            values: dict[str, object] = {"cause": error.cause, "reply": str(error.reply)}
            if isinstance(error, CommitUnknown):
                values["may_duplicate"] = "commit"
            self._record(Fact("queue.trouble", entry.envelope.id, values, "error"))
            raise
        return deliveries

    async def claim(self, hop: str, limit: int, below: int = ANY_CRASHES) -> tuple[Delivery, ...]:
        """At most `limit` messages with recipients that are due at `hop`, the oldest due first. Raises NotKept.

        below: only recipients with fewer crashes.
        """
        return await self._claim(operations.claim_due, hop, limit, below)

    async def claim_expired(self, limit: int) -> tuple[Delivery, ...]:
        """At most `limit` messages with recipients whose time is over, of any hop and due or not. Raises NotKept."""
        return await self._claim(operations.claim_expired, limit)

    async def content(self, id: str) -> bytearray | None:
        """The whole message; None if it, or a part of it, is not there. Raises NotKept."""
        return await self._read(bind(reading.whole, id))

    async def contents(self, ids: Collection[str]) -> dict[str, bytes]:
        """Of those messages that are one piece, all with one look. Raises NotKept."""
        return await self._read(bind(reading.small, tuple(ids)))

    async def settle(self, delivery: Delivery, settlements: Sequence[Settlement]) -> frozenset[int]:
        """Write what became of the recipients; the message goes with the last of them. Raises NotKept.

        Returns the numbers of those whose lease had been lost: nothing was written for them.
        """
        id = delivery.queued.envelope.id
        lost: frozenset[int] = await self._ask(Settle(id, delivery.token, settlements))
        for one in delivery.queued.recipients:
            if one.number in lost:
                values = {"to": str(one.address), "hop": delivery.hop, "may_duplicate": "lease"}
                self._record(Fact("queue.lease_lost", id, values, "warning"))
        return lost

    async def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """As if they had never been claimed. Raises NotKept."""
        if not self._is_open:
            raise Unavailable("the queue is closed")
        await asyncio.gather(*(self._commits.hand_over(_returned(one)) for one in deliveries))

    async def renew(self) -> None:
        """A new lease for all that was claimed here and is not settled. Raises NotKept.

        What a commit without an answer may have claimed goes back: it was no crash, and must not count as one.
        """
        held, unknown = tuple(self._held.items()), tuple(self._unknown)
        await self._write(bind(operations.renew, held, self._lease, unknown))
        self._unknown.difference_update(unknown)

    async def lapse(self, *, owner: str | None = None) -> int:
        """Take back what has run out of its lease, or all that a dead owner had; how many. Raises NotKept."""
        limits = (self.crashes, self._first_retry)
        if owner is None:
            operation = bind(operations.lapse_overdue, *limits)
        else:
            operation = bind(operations.lapse_of, owner, *limits)
        lapsed: list[Lapsed] = await self._write(operation)
        self._tell_lapsed(lapsed)
        return len(lapsed)

    async def due_in(self, hops: Collection[str]) -> float | None:
        """Seconds until the next recipient of these hops is due, 0.0 or less when one is. Raises NotKept.

        By the clock of the queue, which need not be ours.
        """
        return await self._read(bind(reading.due_in, tuple(hops)))

    # --- reports ---------------------------------------------------------------------------------

    async def reportable(self, limit: int) -> tuple[Queued, ...]:
        """Messages whose senders are to hear something, with the recipients it is about. Raises NotKept."""
        return await self._read(bind(reports.reportable, limit))

    async def report(self, queued: Queued, bounce: Entry | None) -> bool:
        """Put the report into the queue (None: there is nothing to say) and end what it is about, all or nothing.

        False: something of it has changed meanwhile, and nothing was written. Raises NotKept.
        """
        return bool(await self._write(bind(reports.report, queued, bounce)))

    # --- an operator's ---------------------------------------------------------------------------

    async def select(self, selection_: Selection, limit: int = 100, after: str = "") -> tuple[Queued, ...]:
        """Messages behind the id `after`, the oldest first, with those recipients that are meant. Raises NotKept."""
        return await self._read(bind(selection.selected, selection_, limit, after))

    async def find(self, id: str) -> Queued | None:
        """A message with all its recipients, those that are DONE too. Raises NotKept."""
        return await self._read(bind(reading.find, id))

    async def move(
        self,
        selection_: Selection,
        move: Move,
        cause: str = "",
        *,
        extend: float = 0.0,
        tell: Callable[[Sequence[Moved]], None] = lambda moved: None,
    ) -> int:
        """Move the selected recipients, those that can be; how many. Raises NotKept, with some of them moved.

        extend: RELEASE gives each at least so many seconds from now on. tell: hears which, as they are committed.
        """
        count, last = 0, ""
        while True:
            operation = bind(selection.move, selection_, move, cause, extend, MOVED_AT_ONCE, last)
            moved, last = await self._write(operation)
            count += len(moved)
            tell(moved)
            if not last:
                return count

    async def depth(self, selection_: Selection = EVERYTHING) -> tuple[Depth, ...]:
        """How many are selected, by hop and state, DONE aside. Raises NotKept."""
        return await self._read(bind(selection.depth, selection_))

    # --- what is behind them ---------------------------------------------------------------------

    def _new_claim(self) -> Claim:
        return Claim(self._owner, f"{self._owner}/{next(self._tokens)}", self._lease)

    async def _claim(self, operation: Callable[..., tuple[Delivery, ...]], *values: Any) -> tuple[Delivery, ...]:
        claim = self._new_claim()
        try:
            deliveries: tuple[Delivery, ...] = await self._write(bind(operation, *values, claim))
        except CommitUnknown:
            self._disown(claim)
            raise
        return deliveries

    def _disown(self, claim: Claim) -> None:
        self._unknown.add(claim.token)

    async def _read(self, operation: Operation[T]) -> T:
        if not self._is_open:
            raise Unavailable("the queue is closed")
        return await self._engine.read(operation)

    async def _write(self, operation: Operation[T]) -> T:
        result: T = await self._ask(operation)
        return result

    async def _ask(self, work: Work, until: float = math.inf) -> Any:
        if not self._is_open:
            raise Unavailable("the queue is closed")
        return await self._commits.ask(work, until)

    def _committed(self, work: Work, result: Any, elapsed: float, is_awaited: bool) -> None:
        for delivery in _deliveries(result):
            self._held |= dict.fromkeys(_keys(delivery), delivery.token)
        if isinstance(work, Settle):
            self._let_go((Key(work.id, one.number) for one in work.settlements), work.token)
        elif isinstance(work, Keep):
            entry = work.entry
            values: dict[str, object] = {
                "hops": sorted({one.hop for one in entry.recipients}),
                "size": entry.message.size,
                "recipients": len(entry.recipients),
                "elapsed_ms": round(elapsed * 1000, 1),
            }
            if not is_awaited:
                values["may_duplicate"] = "client"
            self._record(Fact("queue.kept", entry.envelope.id, values))

    def _let_go(self, keys: Iterable[Key], token: str) -> None:
        for key in keys:
            if self._held.get(key) == token:
                del self._held[key]

    def _give_up(self, result: Any) -> None:
        """Give back what was claimed for a caller who has gone. If that fails, its lease runs out."""
        for delivery in _deliveries(result):
            self._let_go(_keys(delivery), delivery.token)
            self._commits.hand_over(_returned(delivery)).add_done_callback(asyncio.Future.exception)

    def _tell_lapsed(self, lapsed: Iterable[Lapsed]) -> None:
        for one in lapsed:
            values = {"to": str(one.address), "hop": one.hop, "crashes": one.crashes, "state": one.state.value}
            values["may_duplicate"] = "crash"
            self._record(Fact("queue.lapsed", one.id, values, "warning"))


def _returned(delivery: Delivery) -> Settle:
    settlements = [Settlement(one.number, Move.RETURN, one.attempts) for one in delivery.queued.recipients]
    return Settle(delivery.queued.envelope.id, delivery.token, settlements)


def _deliveries(result: Any) -> tuple[Delivery, ...]:
    """Those in what an operation returned."""
    return tuple(one for one in result if isinstance(one, Delivery)) if isinstance(result, tuple) else ()


def _keys(delivery: Delivery) -> Iterator[Key]:
    return (Key(delivery.queued.envelope.id, one.number) for one in delivery.queued.recipients)

"""The queue as its users see it: group commit over an engine, and a disk that heals.

GROUP COMMIT. Whoever writes hands over an operation and waits. While a transaction is being synced others
gather, and the next one takes all of them, so that a hundred sessions share one sync. Messages of a batch go in
together, and so do settlements. If a batch cannot be committed each of its parts is tried alone, unless the
database as a whole is at fault: one that cannot be kept must not cost its neighbours their 250.

A commit belongs to the store and not to the session that asked for it. A caller who is gone before his part
has begun is left out; behind that it is written, and what it had claimed is given back, since nobody has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from relay.clock import Clock
from relay.fact import Fact, Record
from relay.queue import operations, selection
from relay.queue.disk import Disk
from relay.queue.engine import CommitUnknown, Engine, NoRoom, NotKept, Operation, Unavailable
from relay.queue.entry import EVERYTHING, Delivery, Depth, Entry, Moved, Queued, Selection, Settlement
from relay.queue.operations import Claim, Keep, Lapsed
from relay.queue.states import Move

BATCH = 256  # operations in one transaction
BATCH_OCTETS = 16 * 1024**2  # and of new messages, so that the others need not wait long for one batch
MOVED_AT_ONCE = 500  # messages in one transaction of `move`: mail gets in between

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Asked:
    """Something to be written, and who waits for it. until: on the monotonic clock."""

    work: Keep | _Settled | Operation[Any]
    done: asyncio.Future[Any]
    until: float | None = None


@dataclass(frozen=True, slots=True)
class _Settled:
    id: str
    token: str
    settlements: Sequence[Settlement]


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
        self._crashes = crashes
        self._clock = clock
        self._record = record
        self._first_retry = first_retry
        self._disk = disk
        self._tokens = count(1)
        self._asked: list[_Asked] = []
        self._writer: asyncio.Task[None] | None = None
        self._orphans: list[Delivery] = []
        self._is_open = False
        self._is_supervisor = False

    @property
    def is_shared(self) -> bool:
        return self._engine.is_shared

    async def open(self, *, is_supervisor: bool) -> None:
        """Ready for use. is_supervisor: nobody else has the file, and what is ACTIVE in it belongs to the dead.

        Raises ConfigError.
        """
        await self._engine.open()
        self._is_open = True
        self._is_supervisor = is_supervisor and not self.is_shared
        if self._is_supervisor:
            # TODO: integrity check
            await self._write(operations.bind(operations.set_clean, False))
            everything = operations.bind(operations.lapse_all, self._crashes, self._first_retry)
            self._tell_lapsed(await self._write(everything))

    async def close(self) -> None:
        """Finish what was handed over, then close the engine."""
        if self._is_open:
            self._is_open = False
            if self._writer is not None:
                await self._writer
            if self._is_supervisor:
                with contextlib.suppress(NotKept):
                    await self._engine.transact([operations.bind(operations.set_clean, True)])
        await self._engine.close()

    # --- a message's way -------------------------------------------------------------------------

    async def keep(self, entry: Entry, until: float, *, claim: Collection[str] = ()) -> tuple[Delivery, ...]:
        """Commit a message. Behind this it is ours; raises NotKept, and then it is not.

        until: on the monotonic clock; what has not begun by then is not kept.
        claim: hops; WAITING recipients of theirs come back claimed, a delivery for each hop.
        """
        began = self._clock.monotonic()
        id = entry.envelope.id
        try:
            if self._disk is not None and self._disk.is_low():
                raise NoRoom("the disk is nearly full")
            deliveries: tuple[Delivery, ...] = await self._ask(Keep(entry, frozenset(claim)), until)
        except NotKept as error:
            values: dict[str, object] = {"cause": error.cause, "reply": str(error.reply)}
            if isinstance(error, CommitUnknown):
                values["may_duplicate"] = "commit"
            self._record(Fact("queue.trouble", id, values, "error"))
            raise
        hops = sorted({one.hop for one in entry.recipients})
        elapsed = round((self._clock.monotonic() - began) * 1000, 1)
        values = {"hops": hops, "size": entry.message.size, "recipients": len(entry.recipients), "elapsed_ms": elapsed}
        self._record(Fact("queue.kept", id, values))
        return deliveries

    async def claim(self, hop: str, limit: int) -> tuple[Delivery, ...]:
        """At most `limit` messages with recipients that are due at `hop`, the oldest due first. Raises NotKept."""
        deliveries: tuple[Delivery, ...] = await self._write(
            operations.bind(operations.claim_due, hop, limit, self._new_claim())
        )
        return deliveries

    async def claim_expired(self, limit: int) -> tuple[Delivery, ...]:
        """At most `limit` messages with recipients whose time is over, of any hop and due or not. Raises NotKept."""
        deliveries: tuple[Delivery, ...] = await self._write(
            operations.bind(operations.claim_expired, limit, self._new_claim())
        )
        return deliveries

    async def content(self, id: str) -> bytearray | None:
        """The whole message; None if it, or a part of it, is not there. Raises NotKept."""
        return await self._read(operations.bind(operations.read_content, id))

    async def settle(self, delivery: Delivery, settlements: Sequence[Settlement]) -> frozenset[int]:
        """Write what became of the recipients; the message goes with the last of them. Raises NotKept.

        Returns the numbers of those whose lease had been lost: nothing was written for them.
        """
        id = delivery.queued.envelope.id
        lost: frozenset[int] = await self._ask(_Settled(id, delivery.token, settlements))
        for one in delivery.queued.recipients:
            if one.number in lost:
                values = {"to": str(one.address), "hop": delivery.hop, "may_duplicate": "lease"}
                self._record(Fact("queue.lease_lost", id, values, "warning"))
        return lost

    async def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """As if they had never been claimed. Raises NotKept."""
        await asyncio.gather(*(self._ask(_returned(one)) for one in deliveries))

    async def renew(self) -> None:
        """A new lease for all that this owner has ACTIVE. Raises NotKept."""
        orphans, self._orphans = self._orphans, []
        for one in orphans:
            self._return(one)
        await self._write(operations.bind(operations.renew, self._owner, self._lease))

    async def lapse(self, *, owner: str | None = None) -> int:
        """Take back what has run out of its lease, or all that a dead owner had; how many. Raises NotKept."""
        limits = (self._crashes, self._first_retry)
        if owner is None:
            operation = operations.bind(operations.lapse_overdue, *limits)
        else:
            operation = operations.bind(operations.lapse_of, owner, *limits)
        lapsed: list[Lapsed] = await self._write(operation)
        self._tell_lapsed(lapsed)
        return len(lapsed)

    async def next_due(self, hops: Collection[str]) -> float | None:
        """When the next recipient of these hops is due: seconds since the epoch. Raises NotKept."""
        return await self._read(operations.bind(operations.next_due, tuple(hops)))

    # --- reports ---------------------------------------------------------------------------------

    async def reportable(self, limit: int) -> tuple[Queued, ...]:
        """Messages whose senders are to hear something, with the recipients it is about. Raises NotKept."""
        return await self._read(operations.bind(operations.reportable, limit))

    async def report(self, queued: Queued, bounce: Entry | None) -> bool:
        """Put the report into the queue (None: there is nothing to say) and end what it is about, all or nothing.

        False: something of it has changed meanwhile, and nothing was written. Raises NotKept.
        """
        return bool(await self._write(operations.bind(operations.report, queued, bounce)))

    # --- an operator's ---------------------------------------------------------------------------

    async def select(self, selection_: Selection, limit: int = 100, after: str = "") -> tuple[Queued, ...]:
        """Messages behind the id `after`, the oldest first, with those recipients that are meant. Raises NotKept."""
        return await self._read(operations.bind(selection.selected, selection_, limit, after))

    async def find(self, id: str) -> Queued | None:
        """A message with all its recipients, those that are DONE too. Raises NotKept."""
        return await self._read(operations.bind(selection.find, id))

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
            operation = operations.bind(selection.move, selection_, move, cause, extend, MOVED_AT_ONCE, last)
            moved, last = await self._write(operation)
            count += len(moved)
            tell(moved)
            if not last:
                return count

    async def depth(self, selection_: Selection = EVERYTHING) -> tuple[Depth, ...]:
        """How many are selected, by hop and state, DONE aside. Raises NotKept."""
        return await self._read(operations.bind(selection.depth, selection_))

    # --- group commit ----------------------------------------------------------------------------

    def _new_claim(self) -> Claim:
        return Claim(self._owner, f"{self._owner}/{next(self._tokens)}", self._lease)

    async def _read(self, operation: Operation[T]) -> T:
        if not self._is_open:
            raise Unavailable("the queue is closed")
        return await self._engine.read(operation)

    async def _write(self, operation: Operation[T]) -> T:
        result: T = await self._ask(operation)
        return result

    async def _ask(self, work: Keep | _Settled | Operation[Any], until: float | None = None) -> Any:
        asked = self._enqueue(work, until)
        try:
            return await asked.done
        except asyncio.CancelledError:
            if asked.done.done() and not asked.done.cancelled() and asked.done.exception() is None:
                self._give_up(asked.done.result())
            raise

    def _enqueue(self, work: Keep | _Settled | Operation[Any], until: float | None = None) -> _Asked:
        if not self._is_open:
            raise Unavailable("the queue is closed")
        asked = _Asked(work, asyncio.get_running_loop().create_future(), until)
        self._asked.append(asked)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name="queue writer")
        return asked

    async def _write_all(self) -> None:
        """Commit what is waiting until nothing is."""
        while self._asked:
            batch = self._next_batch()
            if batch:
                await self._commit(batch)

    def _next_batch(self) -> list[_Asked]:
        batch: list[_Asked] = []
        octets, taken = 0, 0
        for one in self._asked:
            if len(batch) == BATCH or octets > BATCH_OCTETS:
                break
            taken += 1
            if one.done.cancelled():
                continue
            batch.append(one)
            if isinstance(one.work, Keep):
                octets += one.work.entry.message.size
        del self._asked[:taken]
        return batch

    async def _commit(self, batch: Sequence[_Asked]) -> None:
        """One transaction for all; each of them learns what came of it."""
        began = self._clock.monotonic()
        try:
            results = await self._engine.transact([lambda connection, now: self._run(batch, connection, now)])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, (Unavailable, CommitUnknown)):
                for one in batch:
                    await self._commit([one])
                return
            for one in batch:
                self._fail(one, error)
            return
        elapsed = round((self._clock.monotonic() - began) * 1000, 1)
        self._record(Fact("queue.committed", "", {"operations": len(batch), "elapsed_ms": elapsed}, "debug"))
        for one, result in zip(batch, results[0], strict=True):
            if isinstance(result, NotKept):
                self._fail(one, result)
            elif not one.done.done():
                one.done.set_result(result)
            else:
                self._give_up(result)

    def _run(self, batch: Sequence[_Asked], connection: Any, now: float) -> list[Any]:
        """In the transaction: messages together, settlements together, the rest one by one."""
        results: dict[_Asked, Any] = {}
        monotonic = self._clock.monotonic()  # it may have waited for a lock
        keeps: list[tuple[_Asked, Keep]] = []
        settled: list[tuple[_Asked, _Settled]] = []
        for one in batch:
            if one.until is not None and one.until <= monotonic:
                results[one] = Unavailable("no time left for the disk")
            elif isinstance(one.work, Keep):
                keeps.append((one, one.work))
            elif isinstance(one.work, _Settled):
                settled.append((one, one.work))
            else:
                results[one] = one.work(connection, now)
        if keeps:
            kept = operations.keep(connection, now, [work for _, work in keeps], self._new_claim())
            results |= zip((one for one, _ in keeps), kept, strict=True)
        if settled:
            triples = [(work.id, work.token, work.settlements) for _, work in settled]
            results |= zip((one for one, _ in settled), operations.settle(connection, now, triples), strict=True)
        return [results[one] for one in batch]

    def _fail(self, asked: _Asked, error: Exception) -> None:
        if asked.done.done():
            return
        if not isinstance(error, NotKept):
            values = {"traceback": "".join(traceback.format_exception(error)), "cause": type(error).__name__}
            self._record(Fact("queue.error", "", values, "error"))
            error = NotKept(f"{type(error).__name__}: {error}")
        asked.done.set_exception(error)

    def _give_up(self, result: Any) -> None:
        """Nobody waits for it any more: what it had claimed goes back."""
        if isinstance(result, tuple):
            for one in result:
                if isinstance(one, Delivery):
                    self._return(one)

    def _return(self, delivery: Delivery) -> None:
        """Give it back with nobody waiting; what cannot be given back now is with the next renewal."""

        def ended(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is not None:
                self._orphans.append(delivery)

        try:
            self._enqueue(_returned(delivery)).done.add_done_callback(ended)
        except NotKept:
            self._orphans.append(delivery)

    def _tell_lapsed(self, lapsed: Iterable[Lapsed]) -> None:
        for one in lapsed:
            values = {"to": str(one.address), "hop": one.hop, "crashes": one.crashes, "state": one.state.value}
            values["may_duplicate"] = "crash"
            self._record(Fact("queue.lapsed", one.id, values, "warning"))


def _returned(delivery: Delivery) -> _Settled:
    settlements = [Settlement(one.number, Move.RETURN, one.attempts) for one in delivery.queued.recipients]
    return _Settled(delivery.queued.envelope.id, delivery.token, settlements)

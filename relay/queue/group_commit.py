"""Group commit: many wait for one sync.

Whoever writes hands over some work and waits. While a transaction is being synced others gather, and the next
one takes all of them. Messages of a batch are inserted together and settlements are written together. If a
batch cannot be committed each part is tried alone, unless the database as a whole is at fault: a message that
cannot be kept must not cost its neighbours their 250.

For a settlement nobody waits: by itself it waits a moment for others, or for what comes that is in a hurry.

A commit does not belong to the session that asked for it. What nobody waits for any more is left out if its
transaction has not begun; behind that it is committed, and `abandoned` hears of the result.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from relay.clock import Clock
from relay.fact import Fact, Record
from relay.queue import operations
from relay.queue.engine import CommitUnknown, Engine, NotKept, Operation, Unavailable
from relay.queue.entry import Settlement
from relay.queue.operations import Claim, Keep

BATCH = 256  # operations in one transaction
LINGER = 0.01  # seconds that settlements wait; what a crash finds delivered and not settled is delivered twice
BATCH_OCTETS = 16 * 1024**2  # of new messages: then the others wait for the next, and the WAL stays short


@dataclass(frozen=True, slots=True)
class Settle:
    """What became of recipients of one message that were claimed with `token`."""

    id: str
    token: str
    settlements: Sequence[Settlement]


Work = Keep | Settle | Operation[Any]


@dataclass(slots=True, eq=False)
class _Asked:
    """Work, and who waits for it. began, until: on the monotonic clock."""

    work: Work
    done: asyncio.Future[Any]
    began: float
    until: float


class GroupCommit:
    """new_claim: for messages that are claimed at birth. unknown: hears of such a claim if its commit had no answer.

    committed: hears of every work and its result, how many seconds it took and whether its caller is still there.
    abandoned: hears of a result that nobody received.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        record: Record,
        new_claim: Callable[[], Claim],
        unknown: Callable[[Claim], None],
        committed: Callable[[Work, Any, float, bool], None],
        abandoned: Callable[[Any], None],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._record = record
        self._new_claim = new_claim
        self._born = new_claim()
        self._unknown = unknown
        self._committed = committed
        self._abandoned = abandoned
        self._asked: list[_Asked] = []
        self._writer: asyncio.Task[None] | None = None
        self._is_urgent = asyncio.Event()

    async def ask(self, work: Work, until: float = math.inf) -> Any:
        """Its result, once it is committed. until: on the monotonic clock; what has not begun by then is not done.

        Raises NotKept.
        """
        done = self.hand_over(work, until)
        try:
            return await done
        except asyncio.CancelledError:
            # The result was on its way to us.
            if done.done() and not done.cancelled() and done.exception() is None:
                self._abandoned(done.result())
            raise

    def hand_over(self, work: Work, until: float = math.inf) -> asyncio.Future[Any]:
        """As `ask`, for those who do not wait."""
        done = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(work, done, self._clock.monotonic(), until))
        if not isinstance(work, Settle):
            self._is_urgent.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name="queue writer")
        return done

    async def finish(self) -> None:
        """Until all that was handed over is done."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait([self._writer])

    async def _write_all(self) -> None:
        try:
            while self._asked:
                await self._linger()
                if batch := self._next_batch():
                    await self._commit(batch)
        except asyncio.CancelledError:
            for one in self._asked:
                self._fail(one, Unavailable("the relay is ending"))
            self._asked.clear()
            raise

    async def _linger(self) -> None:
        timer = asyncio.get_running_loop().call_later(LINGER, self._is_urgent.set)
        await self._is_urgent.wait()
        timer.cancel()
        self._is_urgent.clear()

    def _next_batch(self) -> list[_Asked]:
        batch: list[_Asked] = []
        octets = taken = 0
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
        if self._asked:
            self._is_urgent.set()
        return batch

    async def _commit(self, batch: Sequence[_Asked]) -> None:
        """One transaction for all; each of them learns what came of it."""
        began = self._clock.monotonic()
        try:
            (results,) = await self._engine.transact([lambda connection, now: self._run(batch, connection, now)])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, (Unavailable, CommitUnknown)):
                for one in batch:
                    await self._commit([one])
                return
            if isinstance(error, CommitUnknown):
                self._unknown(self._born)
            for one in batch:
                self._fail(one, error)
            return
        except asyncio.CancelledError:
            for one in batch:
                self._fail(one, CommitUnknown("the relay is ending"))
            raise
        now = self._clock.monotonic()
        values = {"operations": len(batch), "elapsed_ms": round((now - began) * 1000, 1)}
        self._record(Fact("queue.committed", "", values, "debug"))
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, NotKept):
                self._fail(one, result)
                continue
            is_awaited = not one.done.done()
            self._committed(one.work, result, now - one.began, is_awaited)
            if is_awaited:
                one.done.set_result(result)
            else:
                self._abandoned(result)

    def _run(self, batch: Sequence[_Asked], connection: Connection, now: float) -> list[Any]:
        """In the transaction: messages together, settlements together, the rest one by one."""
        results: dict[_Asked, Any] = {}
        self._born = self._new_claim()  # of this transaction, whatever is in it: an older one may be held
        keeps: list[tuple[_Asked, Keep]] = []
        settles: list[tuple[_Asked, Settle]] = []
        monotonic = self._clock.monotonic()  # later than it was: there may have been a lock to wait for
        for one in batch:
            if one.until <= monotonic:
                results[one] = Unavailable("no time left for the disk")
            elif isinstance(one.work, Keep):
                keeps.append((one, one.work))
            elif isinstance(one.work, Settle):
                settles.append((one, one.work))
            else:
                results[one] = one.work(connection, now)
        if keeps:
            kept = operations.keep(connection, now, [work for _, work in keeps], self._born)
            results |= zip((one for one, _ in keeps), kept, strict=True)
        if settles:
            settled = [(work.id, work.token, work.settlements) for _, work in settles]
            results |= zip((one for one, _ in settles), operations.settle(connection, now, settled), strict=True)
        return [results[one] for one in batch]

    def _fail(self, asked: _Asked, error: Exception) -> None:
        if not isinstance(error, NotKept):
            values = {"cause": type(error).__name__, "traceback": "".join(traceback.format_exception(error))}
            self._record(Fact("queue.error", "", values, "error"))
            error = NotKept(f"{type(error).__name__}: {error}")
        if not asked.done.done():
            asked.done.set_exception(error)

"""One attempt at one hop: the message is read, sent, and what came of it is written.

FAILS  never. A hop that raises is our own mistake, and its mail is deferred; a content that is gone, or is no message,
       is held. A database that takes nothing is asked again and again, until the relay ends: then what it
       did not hear of stays ACTIVE, and lapses.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from relay.clock import Clock
from relay.errors import MalformedMessage
from relay.fact import Fact, Record
from relay.message import Message
from relay.outcome import NextHop, Outcome, Result
from relay.queue.engine import NotKept
from relay.queue.entry import Action, Delivery, Recipient, Settlement
from relay.queue.schedule import Schedule, expire, settle
from relay.queue.states import Move
from relay.queue.store import Store
from relay.reply import INTERNAL

# Seconds until our final dot. Each wait has its own timeout, but all of them together are to end before long.
PATIENCE = 1800.0
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0  # seconds until a database in trouble is asked again

_EVENTS = {
    Move.DELIVERED: ("queue.delivered", "debug"),
    Move.DEFERRED: ("queue.deferred", "info"),
    Move.FINAL: ("queue.failed", "info"),
    Move.SILENT: ("queue.failed", "info"),
    Move.STRANDED: ("queue.held", "warning"),
}

T = TypeVar("T")


class Attempts:
    """chance: in [0, 1), for the jitter of each delay."""

    def __init__(
        self, store: Store, schedule: Callable[[], Schedule], clock: Clock, record: Record, chance: Callable[[], float]
    ) -> None:
        self._store, self._schedule, self._clock, self._record, self._chance = store, schedule, clock, record, chance
        self._stop_by: float | None = None  # monotonic

    def stop(self, seconds: float) -> None:
        """The relay ends: what is interrupted is given back, and the database has this long to take it."""
        self._stop_by = self._clock.monotonic() + seconds

    async def send(self, delivery: Delivery, hop: NextHop) -> tuple[Outcome, ...] | None:
        """An outcome for each recipient; None if there was nothing to send, and then they are held."""
        envelope, until = delivery.queued.envelope, self._clock.monotonic() + PATIENCE
        try:
            message = delivery.message or await self._read(delivery)
        except MalformedMessage as error:
            self._tell_trouble(envelope.id, delivery.hop, str(error))
            await self._write(delivery, [_held(one, str(error)) for one in delivery.queued.recipients])
            return None
        try:
            outcomes = await hop.deliver(envelope, message, envelope.recipients, until, each=True)
            if len(outcomes) != len(envelope.recipients):
                raise ValueError(f"{len(outcomes)} outcomes for {len(envelope.recipients)} recipients")
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            self._tell_trouble(envelope.id, delivery.hop, cause, traceback.format_exc())
            raised = (Outcome(one, Result.TEMPORARY, INTERNAL, delivery.hop, "", cause) for one in envelope.recipients)
            return tuple(raised)
        return outcomes

    async def settle(self, delivery: Delivery, outcomes: Sequence[Outcome], *, offers_dsn: bool) -> None:
        """Write what an attempt came to. Its recipients share one delay, so that they go together again."""
        schedule, chance = self._schedule(), self._chance()
        # By the clock of the queue, which may be another machine's: there it has begun already.
        now = max(self._clock.time(), delivery.claimed)
        settlements = [
            _returned(recipient)
            if self._is_interrupted(outcome)
            else settle(delivery.queued, recipient, outcome, now, chance, schedule, offers_dsn=offers_dsn)
            for recipient, outcome in zip(delivery.queued.recipients, outcomes, strict=True)
        ]
        await self._write(delivery, settlements)

    async def expire(self, delivery: Delivery, said: Outcome | None) -> None:
        """Its time ran out, and its hop cannot be asked. said: the last that was heard of the hop."""
        schedule, queued = self._schedule(), delivery.queued
        await self._write(delivery, [expire(queued, recipient, said, schedule) for recipient in queued.recipients])

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """As if they had never been claimed."""
        if deliveries:
            await self._insist(lambda: self._store.give_back(deliveries), deliveries)

    def _is_interrupted(self, outcome: Outcome) -> bool:
        """It ended because the relay does: nothing was learnt of the mail."""
        return self._stop_by is not None and outcome.result is Result.TEMPORARY and outcome.is_about_hop

    async def _read(self, delivery: Delivery) -> Message:
        """Raises MalformedMessage, also when there is nothing to read."""
        id = delivery.queued.envelope.id
        content = await self._insist(lambda: self._store.content(id), (delivery,))
        if content is None:
            raise MalformedMessage("its content is not in the queue")
        return Message.parse(content)

    async def _write(self, delivery: Delivery, settlements: Sequence[Settlement]) -> None:
        lost = await self._insist(lambda: self._store.settle(delivery, settlements), (delivery,))
        self._tell(delivery, [one for one in settlements if one.number not in lost])

    async def _insist(self, work: Callable[[], Awaitable[T]], deliveries: Sequence[Delivery]) -> T:
        """What the store answers, however long it takes. Raises NotKept when the relay has to end before."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await work()
            except NotKept as trouble:
                if self._stop_by is not None and self._clock.monotonic() >= self._stop_by:
                    raise
                if pause == _FIRST_PAUSE:
                    for one in deliveries:
                        self._tell_trouble(one.queued.envelope.id, one.hop, trouble.cause)
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    # --- facts -----------------------------------------------------------------------------------

    def _tell(self, delivery: Delivery, settlements: Iterable[Settlement]) -> None:
        """One fact for all recipients with the same fate."""
        addresses = {one.number: str(one.address) for one in delivery.queued.recipients}
        fates: dict[tuple[object, ...], list[Settlement]] = {}
        for one in settlements:
            fates.setdefault((one.move, one.action, one.attempts, one.delay, one.reply, one.cause), []).append(one)
        for alike in fates.values():
            first = alike[0]
            if first.move is Move.RETURN:
                continue
            event, level = ("queue.delivered", "debug") if first.action is Action.RELAYED else _EVENTS[first.move]
            values: dict[str, object] = {"to": [addresses[one.number] for one in alike], "hop": delivery.hop}
            if event != "queue.delivered":
                values |= {"attempts": first.attempts, "reply": first.reply, "cause": first.cause}
            if first.move is Move.DEFERRED:
                values["next_seconds"] = round(first.delay, 3)
            self._record(Fact(event, delivery.queued.envelope.id, values, level))

    def _tell_trouble(self, id: str, hop: str, cause: str, traceback: str = "") -> None:
        values = {"hop": hop, "cause": cause}
        if traceback:
            values["traceback"] = traceback
        self._record(Fact("queue.trouble", id, values, "error"))


def _returned(recipient: Recipient) -> Settlement:
    return Settlement(recipient.number, Move.RETURN, recipient.attempts)


def _held(recipient: Recipient, cause: str) -> Settlement:
    reply, host = recipient.reply, recipient.host
    return Settlement(recipient.number, Move.STRANDED, recipient.attempts, reply=reply, host=host, cause=cause)

"""Who answers for a message that was accepted: its next hop at once, or the queue.

Proxied, the client hears the next hop's own answer (promise 2). The queue takes over where one reply cannot
be had, or would not be true: several next hops, a route that says so, a hop in trouble where its route
says `on_trouble = "queue"`. 250 is then said once the message is on disk (promise 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from relay.address import Address
from relay.clock import Clock
from relay.config.models import Config, HopTrouble, Mode, Route
from relay.envelope import Envelope, Notify
from relay.fact import Fact, Record
from relay.forward.remembered import Remembered
from relay.message import Message
from relay.outcome import NextHop, Outcome, Result, disagree, one_reply
from relay.queue.arrival import arriving, tried
from relay.queue.entry import Entry, Recipient
from relay.queue.schedule import Schedule
from relay.reply import DISAGREE, Reply, queued

_DEFAULT = Notify()
_KEEP = 30.0  # seconds for the disk, though the hop may have used up the client's patience


class Accepted(NamedTuple):
    """A message that nothing speaks against. came, content: as received. sent, message: as they leave.

    routes: of each recipient. is_reportable: its sender may be sent reports about it.
    until: monotonic; every wait before our own final dot ends by then.
    """

    came: Envelope
    sent: Envelope
    message: Message
    routes: Mapping[Address, Route]
    content: bytes | bytearray
    is_reportable: bool
    until: float


class Queue(Protocol):
    """`relay/queue/worker.py`, as far as it is needed here."""

    async def keep(self, entry: Entry, until: float) -> Reply:
        """250 once `entry` is on disk, else why not. until: monotonic."""

    def is_down(self, hop: str) -> bool:
        """The hop took no connection lately: trying it costs the client's patience, and its answer is known."""


class Handover:
    def __init__(
        self,
        config: Config,
        hops: Mapping[str, NextHop],
        queue: Queue,
        remembered: Remembered,
        clock: Clock,
        chance: Callable[[], float],
        record: Record,
    ) -> None:
        """hops: by name; `route.INBOX` is the inbox. chance: in [0, 1), for the jitter of retries."""
        self._hops, self._queue, self._remembered = hops, queue, remembered
        self._schedule = Schedule.of(config.queue, config.bounce)
        self._clock, self._chance, self._record = clock, chance, record

    async def take(self, accepted: Accepted) -> Reply:
        """The client's reply."""
        route, routes = next(iter(accepted.routes.values())), accepted.routes.values()
        several = len({one.hop for one in routes}) > 1
        queues = route.on_trouble is HopTrouble.QUEUE
        if several or route.mode is Mode.QUEUE or (queues and self._queue.is_down(route.hop)):
            return await self._queue.keep(self._entry(accepted), max(accepted.until, self._clock.monotonic() + _KEEP))
        # Who may not be sent a report hears of a refusal in the session, so nothing is sent if one is refused.
        outcomes = await self._proxy(accepted, route.hop, each=queues and accepted.is_reportable)
        if queues and _is_for_the_queue(outcomes, is_reportable=accepted.is_reportable):
            reply = await self._queue_rest(self._entry(accepted), outcomes)
            if reply.is_positive or not disagree(outcomes):
                return reply
        reply = one_reply(accepted.came.id, outcomes)
        if reply is DISAGREE:
            await self._remembered.keep(accepted.came, outcomes, accepted.content)
        return reply

    def _entry(self, accepted: Accepted) -> Entry:
        told = accepted.sent.notify
        recipients = tuple(
            Recipient(one, route.hop, notify=told.get(one, _DEFAULT)) for one, route in accepted.routes.items()
        )
        entry = Entry(accepted.sent, accepted.message, self._clock.time(), accepted.is_reportable, recipients)
        return arriving(entry, self._schedule)

    async def _proxy(self, accepted: Accepted, hop: str, *, each: bool) -> tuple[Outcome, ...]:
        """One attempt for all who do not have the message from an attempt before."""
        came, sent, message = accepted.came, accepted.sent, accepted.message
        rest = [*accepted.routes]
        settled = await self._remembered.settled(came, rest, accepted.content)
        if settled:
            self._record(Fact("pipeline.settled", came.id, {"to": [str(recipient) for recipient in settled]}))
            rest = [recipient for recipient in rest if recipient not in settled]
        outcomes: tuple[Outcome, ...] = ()
        if rest:
            outcomes = await self._hops[hop].deliver(sent, message, rest, accepted.until, each=each)
        return (*settled.values(), *outcomes)

    async def _queue_rest(self, entry: Entry, outcomes: Sequence[Outcome]) -> Reply:
        """250 once those whom the attempt left open are on disk."""
        now, chance = self._clock.time(), self._chance()
        offers_dsn = self._hops[entry.recipients[0].hop].capabilities.dsn
        left = tried(entry, outcomes, now, chance, self._schedule, offers_dsn=offers_dsn)
        if left is None:  # refused, and the sender asked not to hear of it (NOTIFY=NEVER)
            return queued(entry.envelope.id)
        return await self._queue.keep(left, self._clock.monotonic() + _KEEP)


def _is_for_the_queue(outcomes: Sequence[Outcome], *, is_reportable: bool) -> bool:
    """Somebody is to be tried again, or one reply cannot tell what became of all.

    A refusal that nobody could be told of later is left to the session, which tells it at the retry.
    """
    results = {outcome.result for outcome in outcomes}
    if Result.PERMANENT in results and (not is_reportable or len(results) == 1):
        return False
    return results != {Result.DELIVERED}

"""How deep the queue is, told as facts at regular times: each is a gauge in `watch/metrics.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.fact import Fact, Record
from relay.queue.engine import NotKept

if TYPE_CHECKING:
    from relay.queue.store import Store

PERIOD = 15.0  # seconds: as often as Prometheus usually looks


async def tell_depth(store: Store, clock: Clock, record: Record) -> None:
    """A `queue.depth` fact for each hop and state, now and every PERIOD seconds, until cancelled.

    Its `oldest` is the age of the oldest message, in seconds. What has gone is told once more, as zero. A queue
    that cannot be read is a `queue.trouble`, once until it can.
    """
    told: set[tuple[str, str]] = set()
    in_trouble = False
    while True:
        try:
            found = await store.depth()
        except NotKept as trouble:
            if not in_trouble:
                record(Fact("queue.trouble", "", {"cause": f"depth: {trouble.cause}"}, "error"))
            in_trouble = True
        else:
            in_trouble = False
            now, gone = clock.time(), told - {(one.hop, one.state.value) for one in found}
            told = {(one.hop, one.state.value) for one in found}
            for one in found:
                record(_fact(one.hop, one.state, one.recipients, one.messages, max(0.0, round(now - one.oldest, 1))))
            for hop, state in sorted(gone):
                record(_fact(hop, state, 0, 0, 0.0))
        await clock.sleep(PERIOD)


def _fact(hop: str, state: str, recipients: int, messages: int, oldest: float) -> Fact:
    values = {"hop": hop, "state": state, "recipients": recipients, "messages": messages, "oldest": oldest}
    return Fact("queue.depth", "", values, "debug")

"""R11: whatever happens to mail, its sender hears of it as NOTIFY says: once, and what ends together in one report.

Random histories on a real queue: attempts with random outcomes, a clock that jumps from one to the next, the
reporter behind each. What should be told is written down by a few lines that know RFC 3461 and nothing else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.address import Address
from relay.capabilities import Capabilities
from relay.config.models import Config
from relay.envelope import Notify
from relay.message import Message
from relay.outcome import Outcome, Result
from relay.queue.arrival import arriving
from relay.queue.entry import Delivery, Entry, Queued, Recipient, Selection
from relay.queue.reporter import Reporter
from relay.queue.schedule import Schedule, settle
from relay.queue.sqlite import SqliteEngine
from relay.queue.states import Move, State
from relay.queue.store import Store
from relay.reply import HOP_UNREACHABLE, Reply
from tests.support.clock import JumpingClock
from tests.support.reports import MAIL, queued, read

HISTORIES = 25  # of each seed
HOUR = 3600.0
CONFIG = Config.model_validate(
    {
        "hostname": "mx.example.org",
        "listener": {"in": {"role": "submission", "port": 2525, "allow": ["10.0.0.0/8"], "senders": ["*"]}},
        "queue": {"warn": "4 h", "give_up": "1 d"},
    }
)
SCHEDULE = Schedule.of(CONFIG.queue, CONFIG.bounce)
NOTIFY = [
    "", "", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE", "SUCCESS,DELAY", "FAILURE,DELAY",
    "SUCCESS,FAILURE,DELAY",
]  # fmt: skip
REPLIES = {
    Result.DELIVERED: Reply(250, "0.0", "OK"),
    Result.PERMANENT: Reply(550, "1.1", "no such user"),
    Result.TEMPORARY: Reply(450, "2.1", "busy"),
    Result.AMBIGUOUS: HOP_UNREACHABLE,
}


class History:
    """One message, from its arrival until nothing of it waits. told: what the reports said, (recipient, action).

    expected: what they should have said. sets: how many times there was something to say. wanted: whose failure
    the sender wants to hear of.
    """

    def __init__(self, store: Store, clock: JumpingClock, chance: random.Random, number: int) -> None:
        self.store, self.clock, self.chance = store, clock, chance
        self.id = f"0kqm0e2q5h7j{number:04}"
        self.has_sender, self.is_reportable = chance.random() > 0.15, chance.random() > 0.15
        self.notify = {f"u{n}@example.net": chance.choice(NOTIFY) for n in range(chance.randint(1, 3))}
        self.offers_dsn = chance.random() < 0.3
        self.fails = chance.random()  # how likely an attempt does not settle it
        self.arrived = clock.now
        self.warned: set[str] = set()
        self.ended: dict[str, str] = {}
        self.wanted: list[str] = []
        self.news: list[tuple[str, str]] = []
        self.expected: Counter[tuple[str, str]] = Counter()
        self.sets = 0

    async def run(self) -> None:
        addresses = [Address(*one.split("@")) for one in self.notify]
        recipients = tuple(
            Recipient(one, "out", notify=Notify(on)) for one, on in zip(addresses, self.notify.values(), strict=True)
        )
        envelope = queued(*recipients, sender="ann@example.org" if self.has_sender else None).envelope
        envelope.id = self.id
        entry = arriving(Entry(envelope, Message.parse(MAIL), self.arrived, self.is_reportable, recipients), SCHEDULE)
        await self.store.keep(entry, self.clock.now + 60)
        reporter = Reporter(
            self.store,
            lambda: CONFIG,
            unsigned,
            lambda *_: "back",
            lambda _: Capabilities(),
            self.clock,
            lambda _: None,
        )
        while len(self.ended) < len(self.notify):
            for delivery in await self.store.claim("out", 10):
                await self.attempt(delivery)
            await self.listen(reporter)
            wait = await self.store.due_in(["out"])
            if wait is not None:
                # Sometimes the relay sleeps for longer than it should; sometimes it looks in between.
                self.clock.now += max(0.0, wait) + self.chance.choice([0.0, 0.0, 0.0, 3 * HOUR])
                if self.chance.random() < 0.3:
                    await self.listen(reporter)
        await self.listen(reporter)

    async def attempt(self, delivery: Delivery) -> None:
        settlements = []
        for one in delivery.queued.recipients:
            result = self.chance.choice([Result.DELIVERED, Result.PERMANENT])
            if self.chance.random() < self.fails:
                result = self.chance.choice([Result.TEMPORARY, Result.AMBIGUOUS])
            outcome = Outcome(one.address, result, REPLIES[result], "out", "mx.example.net")
            jitter = self.chance.random()
            settlements.append(
                settle(delivery.queued, one, outcome, self.clock.now, jitter, SCHEDULE, offers_dsn=self.offers_dsn)
            )
            self.note(str(one.address), result)
        assert not await self.store.settle(delivery, settlements)

    def note(self, address: str, result: Result) -> None:
        """What the sender is to hear of this attempt (RFC 3461 §5.2.2, §5.2.6)."""
        words = self.notify[address].split(",")
        if result is Result.DELIVERED:
            self.ended[address] = "delivered"
            if "SUCCESS" in words and not self.offers_dsn:
                self.news.append((address, "relayed"))
        elif result is Result.PERMANENT or self.clock.now >= self.arrived + 24 * HOUR:
            self.ended[address] = "failed"
            if words == [""] or "FAILURE" in words:
                self.wanted.append(address)
                self.news.append((address, "failed"))

    async def listen(self, reporter: Reporter) -> None:
        """Let it report, after what it should say is noted: delays too (RFC 3461 §5.2.5)."""
        for address, on in self.notify.items():
            is_late = address not in self.ended and self.clock.now >= self.arrived + 4 * HOUR
            if is_late and address not in self.warned and (on == "" or "DELAY" in on.split(",")):
                self.warned.add(address)
                self.news.append((address, "delayed"))
        if self.has_sender and self.is_reportable and self.news:
            self.expected.update(self.news)
            self.sets += 1
        self.news.clear()
        await reporter.report_due()


async def unsigned(message: Message, author: Address | None, id: str) -> Message:
    return message


@pytest.fixture
async def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
async def store(tmp_path: Path, clock: JumpingClock) -> AsyncIterator[Store]:
    made = Store(SqliteEngine(tmp_path / "queue.db", clock), "test", 1e9, 5, clock, lambda _: None)
    await made.open(is_supervisor=True)
    yield made
    await made.close()


@pytest.mark.parametrize("seed", range(10))
async def test_the_sender_hears_of_everything_once(store: Store, clock: JumpingClock, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(HISTORIES):
        history = History(store, clock, chance, number)
        await history.run()
        told: Counter[tuple[str, str]] = Counter()
        reports = [one for one in await store.select(Selection()) if one.envelope.reverse_path is None]
        reports = [one for one in reports if one.recipients[0].hop == "back"]
        for report in reports:
            told.update(await said(store, report))
        assert told == history.expected, f"seed {seed}, history {number}"
        assert len(reports) == history.sets, "what ends together is told together"
        left = await store.find(history.id)
        open_ = {str(one.address): one.state for one in left.recipients if one.state is not State.DONE} if left else {}
        if history.has_sender and history.is_reportable:
            assert open_ == {}
        else:  # nobody to tell, but an operator can see it; of a bounce all that failed, whatever its NOTIFY
            failed = [one for one, end in history.ended.items() if end == "failed"]
            assert open_ == dict.fromkeys(history.wanted if history.has_sender else failed, State.HELD)
        await store.move(Selection(), Move.DROP)
        assert await store.select(Selection()) == ()


async def said(store: Store, report: Queued) -> list[tuple[str, str]]:
    content = await store.content(report.envelope.id)
    assert content is not None
    return [(one["Final-Recipient"].removeprefix("rfc822; "), one["Action"]) for one in read(bytes(content)).recipients]

"""The worker over the real store: everything gets one fate, in time, whatever hops and operators do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import pytest

from relay.address import Address
from relay.config.queue import Bounce, Queue
from relay.envelope import Client, Envelope, new_id
from relay.fact import Fact
from relay.message import Message
from relay.outcome import NextHop, Outcome
from relay.queue import burst
from relay.queue.burst import CROWD
from relay.queue.engine import Unavailable
from relay.queue.entry import Delivery, Depth, Entry, Recipient, Settlement
from relay.queue.schedule import Schedule
from relay.queue.sqlite import SqliteEngine
from relay.queue.states import State
from relay.queue.store import Store
from relay.queue.worker import Worker, suspected_from
from relay.reply import Reply
from tests.support.clock import TwoClocks
from tests.support.scripted_hop import Answer, ScriptedHop, busy, cut, refused, taken, unreachable

ANN = Address("ann", "example.org")
CONTENT = b"Subject: hello\r\n\r\nOne line.\r\n"
SCHEDULE = replace(Schedule.of(Queue(), Bounce()), jitter=0.0)
LEASE, CRASHES, SPOOL = 60.0, 5, 1_000_000
SUSPECT = suspected_from(CRASHES)
PATIENCE = 30.0  # seconds for what is a matter of milliseconds
owners = (f"owner-{number}" for number in itertools.count())


class Bench:
    """A worker, its store in a file, and hops that play scripts."""

    def __init__(self, path: Path, hops: dict[str, ScriptedHop], *, spool: int = SPOOL, connections: int = 20) -> None:
        self.clock, self.facts = TwoClocks(), list[Fact]()
        self.hops: dict[str, ScriptedHop] = hops
        self.limits = dict.fromkeys(hops, connections)
        self.path, self._spool = path, spool
        self.store = self.make_store()
        self.worker = self.make_worker()

    def make_store(self) -> Store:
        engine = SqliteEngine(self.path, self.clock)
        return Store(engine, next(owners), LEASE, CRASHES, self.clock, self.facts.append)

    def make_worker(self) -> Worker:
        hops: Callable[[], dict[str, NextHop]] = lambda: {**self.hops}  # noqa: E731
        return Worker(
            *(self.store, hops, lambda: self.limits, lambda: SCHEDULE, self.clock, self.facts.append, lambda: 0.5),
            *(self._spool, LEASE),
        )

    @property
    def hop(self) -> ScriptedHop:
        return self.hops["next"]

    def entry(
        self, *recipients: str, hop: str = "next", sender: Address | None = ANN, content: bytes = CONTENT
    ) -> Entry:
        """As `arrival.arriving` makes it."""
        arrived = self.clock.time()
        client = Client("submission", "submission", ip_address("192.0.2.1"), 40000)
        addresses = [Address(*one.split("@")) for one in recipients or ("bob@example.net",)]
        expires = SCHEDULE.expires(arrived, is_bounce=sender is None)
        return Entry(
            Envelope(new_id(arrived), client, sender, recipients=addresses),
            Message.parse(bytearray(content)),
            arrived,
            sender is not None,
            tuple(Recipient(one, hop, due=arrived, expires=expires) for one in addresses),
        )

    async def keep(self, entry: Entry | None = None) -> str:
        entry = entry or self.entry()
        reply = await self.worker.keep(entry, self.clock.monotonic() + 60)
        assert reply == Reply(250, "0.0", f"queued as {entry.envelope.id}")
        return entry.envelope.id

    async def put(self, entry: Entry | None = None) -> str:
        """Into the queue past the worker, as another process does."""
        entry = entry or self.entry()
        await self.store.keep(entry, self.clock.monotonic() + 60)
        return entry.envelope.id

    async def find(self, id: str) -> Recipient:
        found = await self.store.find(id)
        assert found is not None
        return found.recipients[0]

    async def states(self) -> dict[str, int]:
        """Recipients by state."""
        states: dict[str, int] = {}
        for one in await self.store.depth():
            states[one.state.value] = states.get(one.state.value, 0) + one.recipients
        return states

    async def until(self, **states: int) -> None:
        """The queue is as said; all that is not named is zero."""
        async with asyncio.timeout(PATIENCE):
            while await self.states() != states:
                await asyncio.sleep(0.002)

    async def idle(self) -> None:
        """Nothing runs, and nothing is due at a hop that may be tried."""
        async with asyncio.timeout(PATIENCE):
            while await self.is_due() or "active" in await self.states() or self.worker._tasks:
                await asyncio.sleep(0.002)

    async def attempts(self, count: int) -> None:
        """Until so many have begun at the hop."""
        async with asyncio.timeout(PATIENCE):
            while len(self.hop.sent) < count:
                await asyncio.sleep(0.002)

    async def told(self, event: str, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.events(event)) < count:
                await asyncio.sleep(0.002)

    async def is_due(self) -> bool:
        for hop in self.hops:
            retry_at = self.worker._destinations[hop].retry_at
            wait = await self.store.due_in([hop])
            if wait is not None and wait <= 0.0 and (retry_at or 0.0) <= self.clock.monotonic():
                return True
        return False

    async def passes(self, seconds: float) -> None:
        """Time goes by, and the worker has done what it could."""
        self.clock.passes(seconds)
        self.worker.wake()
        await self.idle()

    def events(self, event: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.event == event]

    def values(self, event: str) -> list[dict[str, object]]:
        return [dict(fact.values) for fact in self.events(event)]

    async def start(self) -> None:
        await self.store.open(is_supervisor=True)
        await self.worker.start()

    async def stop(self) -> None:
        for hop in self.hops.values():
            hop.hurry()
        async with asyncio.timeout(PATIENCE):
            await self.worker.drain(5)
        await self.store.close()

    async def crash(self) -> None:
        """The process ends at once, and another takes its place, not yet started. What it did is on record."""
        self.worker._is_stopping = True
        for task in [*self.worker._tasks, self.worker._loop, self.worker._leases]:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.store.close()
        self.store = self.make_store()
        self.worker = self.make_worker()


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def bench(*hops: str, **options: int) -> Bench:
        made.append(Bench(tmp_path / "queue.db", {name: ScriptedHop() for name in hops or ("next",)}, **options))
        return made[-1]

    yield bench
    for one in made:
        await one.stop()


@pytest.fixture
async def bench(make: Callable[..., Bench]) -> Bench:
    one = make()
    await one.start()
    return one


# --- the way of a message ------------------------------------------------------------------------


async def test_a_new_message_goes_out_from_memory_and_leaves_the_queue(bench: Bench) -> None:
    id = await bench.keep()
    await bench.until()
    (sent,) = bench.hop.sent
    assert (sent.id, sent.recipients, sent.content) == (id, ("bob@example.net",), CONTENT)
    assert await bench.store.find(id) is None


async def test_what_another_process_put_there_is_found_and_read_back(bench: Bench) -> None:
    content = b"Subject: a large one\r\n\r\n" + b"0123456789abcde\r\n" * 50_000
    id = await bench.put(bench.entry(content=content))
    await bench.passes(1)
    await bench.until()
    assert [(one.id, one.content) for one in bench.hop.sent] == [(id, content)]


async def test_recipients_with_different_hops_have_fates_of_their_own(make: Callable[..., Bench]) -> None:
    bench = make("next", "other")
    await bench.start()
    bench.hops["other"].answer = busy
    entry = bench.entry("bob@example.net", "carol@example.net")
    id = await bench.keep(replace(entry, recipients=(entry.recipients[0], replace(entry.recipients[1], hop="other"))))
    await bench.idle()
    assert [one.recipients for one in bench.hop.sent] == [("bob@example.net",)]
    assert [one.recipients for one in bench.hops["other"].sent] == [("carol@example.net",)]
    found = await bench.store.find(id)
    assert found is not None
    assert [one.state for one in found.recipients] == [State.DONE, State.WAITING]


async def test_recipients_behind_one_hop_have_fates_of_their_own(bench: Bench) -> None:
    answers = {"bob": taken, "carol": busy, "dave": refused}
    bench.hop.answer = lambda envelope, one: answers[one.local](envelope, one)
    id = await bench.keep(bench.entry("bob@example.net", "carol@example.net", "dave@example.net"))
    await bench.until(waiting=1, report=1)
    found = await bench.store.find(id)
    assert found is not None
    assert [one.state for one in found.recipients] == [State.DONE, State.WAITING, State.REPORT]
    bench.hop.answer = taken
    await bench.passes(300)
    assert [one.recipients for one in bench.hop.sent][1:] == [("carol@example.net",)]


async def test_a_deferred_recipient_is_tried_again_by_the_schedule(bench: Bench) -> None:
    bench.hop.answer = busy
    id = await bench.keep()
    await bench.idle()
    for minutes, attempts in ((5, 1), (10, 2), (20, 3), (40, 4), (60, 5), (60, 6)):
        one = await bench.find(id)
        assert one.attempts == attempts == len(bench.hop.sent)
        assert one.due - bench.clock.time() == pytest.approx(60 * minutes)
        assert (one.reply, one.host) == ("450 4.2.0 mailbox busy", "mx.example")
        await bench.passes(60 * minutes - 1)
        assert len(bench.hop.sent) == attempts
        await bench.passes(1)
    values = bench.values("queue.deferred")[0]
    assert (values["attempts"], values["next_seconds"], values["to"]) == (1, 300.0, ["bob@example.net"])


async def test_an_ambiguous_outcome_is_tried_again_and_keeps_its_cause(bench: Bench) -> None:
    bench.hop.answer = cut
    id = await bench.keep()
    await bench.idle()
    one = await bench.find(id)
    assert (one.state, one.attempts, one.crashes, one.cause) == (State.WAITING, 1, 0, "dot: cut")


async def test_a_refusal_is_to_be_reported_and_one_about_a_bounce_is_held(bench: Bench) -> None:
    bench.hop.answer = refused
    mail, bounce = await bench.keep(), await bench.keep(bench.entry(sender=None))
    await bench.until(report=1, held=1)
    assert (await bench.find(mail)).reply == "550 5.1.1 no such user"
    assert (await bench.find(bounce)).state is State.HELD
    assert [fact.id for fact in bench.events("queue.failed")] == [mail]
    assert [fact.id for fact in bench.events("queue.held")] == [bounce]


# --- our own mistakes, and a queue that was damaged ----------------------------------------------


async def test_a_hop_that_raises_defers_the_mail_and_says_so(bench: Bench) -> None:
    def raises(envelope: Envelope, recipient: Address) -> Outcome:
        raise RuntimeError("a bug")

    bench.hop.answer = raises
    id = await bench.keep()
    await bench.idle()
    one = await bench.find(id)
    assert (one.state, one.attempts, one.cause) == (State.WAITING, 1, "RuntimeError: a bug")
    (trouble,) = bench.values("queue.trouble")
    assert "in raises" in str(trouble["traceback"])
    bench.hop.answer = taken
    await bench.passes(300)
    await bench.until()


async def test_a_hop_with_too_few_outcomes_is_one_that_raises(bench: Bench) -> None:
    async def deliver(*_: object, each: bool) -> tuple[Outcome, ...]:
        return ()

    bench.hop.deliver = deliver  # type: ignore[method-assign]
    id = await bench.keep()
    await bench.idle()
    assert (await bench.find(id)).cause == "ValueError: 0 outcomes for 1 recipients"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("DELETE FROM content", "its content is not in the queue"),
        (f"UPDATE content SET octets = x'{(b'  ' + CONTENT[2:]).hex()}'", "the message begins with white space"),
    ],
)
async def test_a_content_that_is_gone_or_no_message_is_held(bench: Bench, change: str, cause: str) -> None:
    id = await bench.put()
    await bench.store._write(lambda connection, now: connection.exec_driver_sql(change))
    await bench.passes(1)
    await bench.until(held=1)
    assert (await bench.find(id)).cause == cause
    assert bench.values("queue.trouble") == [{"hop": "next", "cause": cause}]
    assert bench.hop.sent == []


# --- a hop that is down --------------------------------------------------------------------------


async def test_a_thousand_messages_for_a_hop_that_is_down_cost_one_attempt_a_probe(bench: Bench) -> None:
    bench.hop.answer = unreachable
    await asyncio.gather(*(bench.keep() for _ in range(1000)))
    await bench.until(waiting=1000)
    assert len(bench.hop.sent) == 2
    assert [(one["hop"], one["cause"], one["retry_seconds"]) for one in bench.values("queue.down")] == [
        ("next", "connect: refused", 300.0)
    ]
    for minutes, attempts in ((4, 2), (1, 3), (9, 3), (1, 4), (19, 4), (1, 5)):
        await bench.passes(60 * minutes)
        assert len(bench.hop.sent) == attempts
    bench.hop.answer = taken
    await bench.passes(40 * 60)
    await bench.until()
    assert len(bench.values("queue.up")) == 1
    assert bench.hop.most_active <= 20


async def test_nothing_of_what_waits_for_it_counts_as_tried(bench: Bench) -> None:
    bench.hop.answer = unreachable
    ids = [await bench.put() for _ in range(50)]
    await bench.passes(1)
    found = [await bench.find(id) for id in ids]
    assert sorted(one.attempts for one in found) == [0] * 48 + [1] * 2
    assert {one.crashes for one in found} == {0}


async def test_another_hop_is_not_delayed_by_it(make: Callable[..., Bench]) -> None:
    bench = make("next", "other")
    bench.hop.answer = unreachable
    await bench.start()
    await asyncio.gather(*(bench.keep() for _ in range(100)))
    await asyncio.gather(*(bench.keep(bench.entry(hop="other")) for _ in range(100)))
    await bench.until(waiting=100)
    assert len(bench.hops["other"].sent) == 100


async def test_it_is_tried_at_once_when_an_operator_says_so(bench: Bench) -> None:
    bench.hop.answer = unreachable
    for _ in range(3):
        await bench.keep()
    await bench.idle()
    bench.hop.answer = taken
    bench.worker.flush("next")
    await bench.until(waiting=2)  # two had an attempt, and wait for their own time
    assert bench.values("queue.up") == [{"hop": "next", "cause": "flushed"}]


async def test_what_is_learnt_of_it_while_the_worker_still_starts_stays_known(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.hop.answer = unreachable
    depth, may_look = bench.store.depth, asyncio.Event()

    async def slow_depth() -> tuple[Depth, ...]:
        await may_look.wait()
        return await depth()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.store, "depth", slow_depth)
        await bench.start()
        for _ in range(2):
            await bench.keep()
        await bench.told("queue.deferred", 2)
    may_look.set()
    await bench.idle()
    assert bench.values("queue.up") == []
    assert bench.worker.is_down("next")


async def test_it_is_tried_at_once_when_a_reload_has_made_another_of_it(bench: Bench) -> None:
    bench.hop.answer = unreachable
    for _ in range(3):
        await bench.keep()
    await bench.idle()
    bench.hops["next"] = ScriptedHop()
    bench.worker.wake()
    await bench.until(waiting=2)
    assert bench.values("queue.up") == [{"hop": "next", "cause": "reloaded"}]


async def test_whose_time_is_over_fails_though_his_hop_is_never_asked_again(bench: Bench) -> None:
    bench.hop.answer = unreachable
    ids = [await bench.keep() for _ in range(10)]
    await bench.idle()
    bench.worker._destinations["next"].retry_at = bench.clock.monotonic() + 10 * 86400
    await bench.passes(5 * 86400)
    await bench.until(report=10)
    assert {(await bench.find(id)).cause for id in ids} == {"expired: connect: refused"}
    assert {(await bench.find(id)).reply[:3] for id in ids} == {"451"}
    assert len(bench.hop.sent) == 2


async def test_what_expired_while_the_relay_was_off_is_tried_once_more(bench: Bench) -> None:
    bench.hop.answer = busy
    delivered = await bench.put()
    await bench.passes(1)
    bench.clock.passes(6 * 86400)
    bench.hop.answer = taken
    await bench.passes(0)
    await bench.until()
    assert [one.id for one in bench.hop.sent] == [delivered] * 2


async def test_a_hop_that_the_configuration_no_longer_has_is_told_once_and_its_mail_waits(bench: Bench) -> None:
    ids = [await bench.put(bench.entry(hop="renamed")) for _ in range(3)]
    bench.hops["new"] = ScriptedHop()
    await bench.passes(1)
    await bench.passes(60)
    assert bench.values("queue.unknown_hop") == [{"hop": "renamed"}]
    assert {(await bench.find(id)).state for id in ids} == {State.WAITING}
    bench.hops["renamed"] = ScriptedHop()
    await bench.passes(1)
    await bench.until()
    assert sorted(one.id for one in bench.hops["renamed"].sent) == sorted(ids)


async def test_mail_for_a_hop_that_nobody_knows_fails_when_its_time_is_over(bench: Bench) -> None:
    id = await bench.put(bench.entry(hop="renamed"))
    await bench.passes(5 * 86400)
    await bench.until(report=1)
    assert (await bench.find(id)).cause == "expired: not attempted"


# --- how much at once ----------------------------------------------------------------------------


async def test_a_hop_never_has_more_than_its_connections(make: Callable[..., Bench]) -> None:
    bench = make(connections=3)
    await bench.start()
    await asyncio.gather(*(bench.keep() for _ in range(200)))
    await bench.until()
    assert bench.hop.most_active == 3
    assert len({one.id for one in bench.hop.sent}) == len(bench.hop.sent) == 200


async def test_memory_is_bounded_and_what_does_not_fit_goes_later(make: Callable[..., Bench]) -> None:
    bench = make(spool=100_000)
    await bench.start()
    bench.hop.open.clear()
    content = b"Subject: x\r\n\r\n" + b"x" * 30_000 + b"\r\n"
    ids = {await bench.keep(bench.entry(content=content)) for _ in range(30)}
    assert bench.worker._spool.taken <= 100_000
    bench.hop.open.set()
    await bench.until()
    await bench.idle()
    assert {one.id for one in bench.hop.sent} == ids
    assert bench.hop.most_active <= 3
    assert bench.worker._spool.taken == 0


async def test_a_message_larger_than_all_the_memory_goes_alone(make: Callable[..., Bench]) -> None:
    bench = make(spool=10_000)
    await bench.start()
    large = b"Subject: x\r\n\r\n" + b"x" * 30_000 + b"\r\n"
    for content in (CONTENT, large, CONTENT, large):
        await bench.put(bench.entry(content=content))
    await bench.passes(1)
    await bench.until()
    await bench.idle()
    assert sorted(len(one.content) for one in bench.hop.sent) == sorted(map(len, (CONTENT, large, CONTENT, large)))
    assert bench.worker._spool.taken == 0


async def test_new_mail_does_not_starve_what_waits(make: Callable[..., Bench]) -> None:
    bench = make(connections=4)
    await bench.start()
    old = {await bench.put() for _ in range(60)}
    bench.clock.passes(1)
    bench.worker.wake()

    async def newcomers() -> None:
        while not old <= {one.id for one in bench.hop.sent}:
            await asyncio.gather(*(bench.keep() for _ in range(10)))

    await asyncio.wait_for(newcomers(), PATIENCE)
    await bench.until()


async def test_a_burst_is_taken_in_first_and_then_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "PAUSE", 0.5)  # the last of them may wait for a slow disk
    ids = await asyncio.gather(*(bench.keep() for _ in range(5 * CROWD)))
    assert bench.hop.sent == []
    await bench.until()
    assert {one.id for one in bench.hop.sent} == set(ids)


async def test_small_messages_that_waited_are_read_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, read = bench.store.contents, list[int]()

    async def counted(ids: Collection[str]) -> dict[str, bytes]:
        read.append(len(ids))
        return await contents(ids)

    async def alone(id: str) -> bytearray | None:
        raise AssertionError(f"{id} was read alone")

    monkeypatch.setattr(bench.store, "contents", counted)
    monkeypatch.setattr(bench.store, "content", alone)
    ids = {await bench.put() for _ in range(40)}
    bench.worker._destinations["next"].window = 20
    await bench.passes(1)
    await bench.until()
    assert {(one.id, one.content) for one in bench.hop.sent} == {(id, CONTENT) for id in ids}
    assert sum(read) == 40
    assert len(read) < 20


# --- crashes -------------------------------------------------------------------------------------


async def test_what_was_under_way_in_a_crash_is_tried_again(bench: Bench) -> None:
    bench.hop.open.clear()
    id = await bench.keep()
    await bench.attempts(1)
    await bench.crash()
    bench.hop.open.set()
    await bench.start()
    await bench.until()
    assert [one.id for one in bench.hop.sent] == [id, id]
    (lapsed,) = bench.values("queue.lapsed")
    assert (lapsed["crashes"], lapsed["may_duplicate"]) == (1, "crash")


async def test_a_message_that_ends_every_relay_is_held_and_its_neighbours_are_not(bench: Bench) -> None:
    deliver, attempts, slow = bench.hop.deliver, list[str](), set[str]()

    async def dies(envelope: Envelope, *rest: Any, **options: Any) -> tuple[Outcome, ...]:
        attempts.append(envelope.id)
        if envelope.id in slow:
            await asyncio.Event().wait()
        return await deliver(envelope, *rest, **options)

    bench.hop.deliver = dies  # type: ignore[method-assign]
    poison, neighbour = await bench.put(), await bench.put()
    slow |= {poison, neighbour}
    bench.clock.passes(1)
    others = [await bench.put() for _ in range(6)]
    for crash in range(1, CRASHES + 1):
        bench.clock.passes(3600)
        bench.worker.wake()
        async with asyncio.timeout(PATIENCE):
            while attempts.count(poison) < crash or (neighbour in slow and attempts.count(neighbour) < crash):
                await asyncio.sleep(0.002)
        await bench.crash()
        await bench.start()
        if crash + 1 == SUSPECT:
            slow.discard(neighbour)
    one = await bench.find(poison)
    assert (one.state, one.cause, one.crashes) == (State.HELD, "poison", CRASHES)
    await bench.passes(3600)
    await bench.until(held=1)
    assert {one.id for one in bench.hop.sent} == {neighbour, *others}


def test_a_suspect_is_alone_with_its_last_chances() -> None:
    # crashes that hold a message: from which claim on it is a suspect; the first is none.
    assert {crashes: suspected_from(crashes) for crashes in (1, 2, 3, 5, 50)} == {1: 2, 2: 2, 3: 2, 5: 4, 50: 49}


async def test_suspects_go_one_at_a_time(make: Callable[..., Bench]) -> None:
    bench = make()
    await bench.store.open(is_supervisor=True)  # and the worker begins when all is as it should be
    suspects, innocents = {await bench.put() for _ in range(6)}, {await bench.put() for _ in range(6)}
    for id in suspects:
        change = f"UPDATE recipient SET crashes = {SUSPECT - 1} WHERE message = '{id}'"
        await bench.store._write(lambda connection, now, change=change: connection.exec_driver_sql(change))
    active, most = set[str](), 0

    def answer(envelope: Envelope, recipient: Address) -> Outcome:
        active.discard(envelope.id)
        return taken(envelope, recipient)

    deliver = bench.hop.deliver

    async def watched(envelope: Envelope, *rest: Any, **options: Any) -> tuple[Outcome, ...]:
        nonlocal most
        active.add(envelope.id)
        most = max(most, len(active & suspects))
        await asyncio.sleep(0.005)
        return await deliver(envelope, *rest, **options)

    bench.hop.answer, bench.hop.deliver = answer, watched  # type: ignore[method-assign]
    await bench.worker.start()
    await bench.passes(1)
    await bench.until()
    assert most == 1
    assert {one.id for one in bench.hop.sent} == suspects | innocents


async def test_who_is_no_suspect_goes_on_beside_one(make: Callable[..., Bench]) -> None:
    bench = make()
    await bench.store.open(is_supervisor=True)
    suspects, innocents = {await bench.put() for _ in range(2)}, {await bench.put() for _ in range(30)}
    for id in suspects:
        change = f"UPDATE recipient SET crashes = {SUSPECT - 1}, due = due - 1 WHERE message = '{id}'"
        await bench.store._write(lambda connection, now, change=change: connection.exec_driver_sql(change))
    deliver, ends = bench.hop.deliver, asyncio.Event()

    async def slow(envelope: Envelope, *rest: Any, **options: Any) -> tuple[Outcome, ...]:
        if envelope.id in suspects:
            await ends.wait()
        return await deliver(envelope, *rest, **options)

    bench.hop.deliver = slow  # type: ignore[method-assign]
    await bench.worker.start()
    await bench.until(active=1, waiting=1)
    assert {one.id for one in bench.hop.sent} == innocents
    ends.set()
    await bench.until()


# --- leases --------------------------------------------------------------------------------------


async def test_a_lease_is_renewed_for_as_long_as_an_attempt_takes(bench: Bench) -> None:
    bench.hop.open.clear()
    await bench.keep()
    for _ in range(20):
        bench.clock.passes(LEASE / 2)
        await asyncio.sleep(0.03)  # a lease of the clock's is 60 ms of ours, renewed every 20 ms
        await bench.store.renew()
        assert await bench.store.lapse() == 0
    bench.hop.open.set()
    await bench.until()
    assert len(bench.hop.sent) == 1


async def test_who_lost_his_lease_writes_nothing_and_both_know_why(bench: Bench) -> None:
    bench.hop.open.clear()
    id = await bench.keep()
    # Frozen past its lease, so that it renews nothing; another relay takes the mail back, and over.
    assert bench.worker._leases is not None
    bench.worker._leases.cancel()
    other = bench.make_store()
    await other.open(is_supervisor=False)
    bench.clock.passes(LEASE + 1)
    assert await other.lapse() == 1
    (theirs,) = await other.claim("next", 1)
    bench.hop.answer = refused
    bench.hop.open.set()
    await bench.until(active=1)
    await bench.told("queue.lease_lost")
    assert bench.events("queue.lease_lost")[0].id == id
    assert bench.events("queue.failed") == []
    await other.give_back([theirs])
    await other.close()


async def test_what_a_dead_relay_had_is_taken_over_when_its_lease_is_over(bench: Bench) -> None:
    other = bench.make_store()
    await other.open(is_supervisor=False)
    id = await bench.put()
    await other.claim("next", 1)
    await other.close()
    await bench.passes(LEASE + 1)
    await bench.until()
    assert [one.id for one in bench.hop.sent] == [id]


# --- a database in trouble -----------------------------------------------------------------------


async def test_what_was_delivered_is_written_as_soon_as_the_database_is_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, refusals = bench.store.settle, iter([Unavailable("locked"), Unavailable("locked")])

    async def later(delivery: Delivery, settlements: Sequence[Settlement]) -> frozenset[int]:
        for refusal in refusals:
            raise refusal
        return await settle(delivery, settlements)

    monkeypatch.setattr(bench.store, "settle", later)
    id = await bench.keep()
    await bench.until()
    assert [one.id for one in bench.hop.sent] == [id]
    assert [(fact.id, fact.values["cause"]) for fact in bench.events("queue.trouble")] == [(id, "locked")]


async def test_a_relay_that_ends_does_not_wait_for_it_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(delivery: Delivery, settlements: Sequence[Settlement]) -> frozenset[int]:
        raise Unavailable("gone")

    monkeypatch.setattr(bench.store, "settle", never)
    id = await bench.keep()
    await bench.attempts(1)
    async with asyncio.timeout(PATIENCE):
        await bench.worker.drain(0.2)
    assert (await bench.find(id)).state is State.ACTIVE


async def test_claims_go_on_when_the_database_is_well_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, refusals = bench.store.claim, iter([Unavailable("gone")] * 3)

    async def later(*asked: Any) -> tuple[Delivery, ...]:
        for refusal in refusals:
            raise refusal
        return await claim(*asked)

    monkeypatch.setattr(bench.store, "claim", later)
    await bench.put()
    await bench.passes(1)
    await bench.until()
    assert [values["cause"] for values in bench.values("queue.trouble")] == ["gone"]


# --- the end -------------------------------------------------------------------------------------


async def test_a_drain_waits_for_what_runs_and_gives_back_the_rest(make: Callable[..., Bench]) -> None:
    bench = make(connections=2)
    await bench.start()
    bench.hop.open.clear()
    ids = [await bench.keep() for _ in range(10)]
    draining = asyncio.create_task(bench.worker.drain(5))
    await bench.until(active=2, waiting=8)
    assert not draining.done()
    bench.hop.open.set()
    await draining
    assert await bench.states() == {"waiting": 8}
    waiting = [one for id in ids if (found := await bench.store.find(id)) for one in found.recipients]
    assert {(one.attempts, one.crashes) for one in waiting} == {(0, 0)}


async def test_what_is_told_to_hurry_is_given_back_and_is_due_at_once(bench: Bench) -> None:
    bench.hop.open.clear()
    id = await bench.keep()
    draining = asyncio.create_task(bench.worker.drain(5))
    await asyncio.sleep(0.02)
    bench.hop.hurry()
    await draining
    one = await bench.find(id)
    assert (one.state, one.attempts, one.crashes) == (State.WAITING, 0, 0)
    assert one.due <= bench.clock.time()
    assert bench.events("queue.deferred") == []


@pytest.mark.parametrize(("answer", "state"), [(cut, State.WAITING), (refused, State.REPORT)])
async def test_what_ends_behind_its_final_dot_is_settled(
    bench: Bench, answer: Callable[[Envelope, Address], Outcome], state: State
) -> None:
    bench.hop.open.clear()
    id = await bench.keep()
    draining = asyncio.create_task(bench.worker.drain(5))
    await asyncio.sleep(0.02)
    bench.hop.answer = answer
    bench.hop.open.set()
    await draining
    one = await bench.find(id)
    assert (one.state, one.attempts) == (state, 1)


async def test_mail_that_comes_while_it_drains_is_kept_and_waits(bench: Bench) -> None:
    bench.hop.open.clear()
    await bench.keep()
    draining = asyncio.create_task(bench.worker.drain(5))
    await asyncio.sleep(0)
    id = await bench.keep()
    bench.hop.open.set()
    await draining
    one = await bench.find(id)
    assert (one.state, one.crashes) == (State.WAITING, 0)


async def test_a_client_that_is_gone_leaves_no_claim_behind(bench: Bench) -> None:
    keeping = asyncio.create_task(bench.worker.keep(bench.entry(), bench.clock.monotonic() + 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await bench.passes(1)
    await bench.until()
    await bench.idle()
    assert bench.worker._spool.taken == 0


async def test_what_cannot_be_kept_is_not_sent(bench: Bench) -> None:
    reply = await bench.worker.keep(bench.entry(), bench.clock.monotonic() - 1)
    assert reply == Reply(451, "3.0", "internal trouble, try again later")
    assert await bench.states() == {}
    assert bench.hop.sent == []
    assert bench.worker._spool.taken == 0


# --- the clock -----------------------------------------------------------------------------------


async def test_a_clock_that_goes_back_by_a_day_does_not_keep_mail_for_a_day(bench: Bench) -> None:
    bench.hop.answer = busy
    await bench.keep()
    await bench.idle()
    bench.clock.jump(-86400)
    bench.hop.answer = taken
    await bench.passes(1)
    await bench.until()
    (values,) = bench.values("queue.clock_back")
    assert values == {"seconds": pytest.approx(86400, abs=PATIENCE), "recipients": 1}


async def test_a_clock_that_goes_ahead_makes_one_attempt_of_it(bench: Bench) -> None:
    bench.hop.answer = busy
    await bench.keep()
    await bench.idle()
    bench.clock.jump(86400)
    await bench.passes(1)
    await bench.passes(1)
    assert len(bench.hop.sent) == 2
    assert bench.events("queue.clock_back") == []


# --- R11, at work --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_over_random_histories_every_attempt_is_made_in_its_time_and_no_other(
    make: Callable[..., Bench], seed: int
) -> None:
    """Each message has answers of its own; the clock goes to the next time that something is due, or jumps by a day."""
    bench, random = make(), Random(seed)
    await bench.start()
    answers: dict[str, list[Answer]] = {}
    due: dict[str, float] = {}
    ends: dict[str, float] = {}
    attempts: dict[str, list[float]] = {}
    expected: dict[str, list[float]] = {}

    def answer(envelope: Envelope, recipient: Address) -> Outcome:
        mine = attempts.setdefault(envelope.id, [])
        mine.append(bench.clock.time())
        return answers[envelope.id][len(mine) - 1](envelope, recipient)

    bench.hop.answer = answer
    for _ in range(30):
        sender, arrives = random.choice([ANN, None]), bench.clock.time() + random.randrange(1, 7200)
        entry = bench.entry(sender=sender)
        id, end = entry.envelope.id, arrives + (86400 if sender is None else 5 * 86400)
        answers[id] = random.choices([busy, cut, taken, refused], [12, 3, 1, 1], k=150)
        due[id], ends[id] = arrives, end
        (recipient,) = entry.recipients
        await bench.put(replace(entry, recipients=(replace(recipient, due=arrives, expires=end),)))
    while due:
        jump = random.choice([86400, -86400]) if random.random() < 0.1 else 0.0
        bench.clock.jump(jump)
        if jump < 0:
            bench.worker.wake()
            await bench.told("queue.clock_back", len(bench.events("queue.clock_back")) + 1)
            due = dict.fromkeys(due, bench.clock.time())
        bench.clock.passes(max(0.0, min(due.values()) - bench.clock.time()))
        now = bench.clock.time()
        for id in [one for one, when in due.items() if when <= now]:
            mine = expected.setdefault(id, [])
            mine.append(now)
            if answers[id][len(mine) - 1] in (busy, cut) and now < ends[id]:
                due[id] = min(now + min(300 * 2 ** (len(mine) - 1), 3600), ends[id])
            else:
                del due[id]
        await bench.passes(0)
        assert attempts == expected
    assert len(attempts) == 30

"""The store on PostgreSQL, where other relays are at the same rows: claims, leases, tokens, and unknown commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from relay.address import Address
from relay.clock import Clock, SystemClock
from relay.envelope import Client, Envelope, Notify, new_id
from relay.fact import Fact
from relay.message import Message
from relay.queue.engine import CommitUnknown, NotKept, Unavailable
from relay.queue.entry import Action, Delivery, Entry, Queued, Recipient, Selection, Settlement
from relay.queue.postgres import PostgresEngine
from relay.queue.states import Move, State
from relay.queue.store import Store
from tests.support.clock import JumpingClock
from tests.support.postgres import Postgres, running_postgres
from tests.support.wire import Cut, Wire

pytestmark = pytest.mark.xdist_group("postgres")

HOP = "next"
LEASE = 60.0
FAR = 2_000_000_000.0  # seconds since the epoch
CRASHES = 5


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.new_database()


@asynccontextmanager
async def relay(
    url: str, owner: str, *, lease: float = LEASE, clock: Clock | None = None, facts: list[Fact] | None = None
) -> AsyncIterator[Store]:
    """The store of one of the relays that share the database."""
    record = facts.append if facts is not None else lambda fact: None
    clock = clock or SystemClock()
    engine = PostgresEngine(url, "relay.toml", SystemClock(), record)
    store = Store(engine, owner, lease, CRASHES, clock, record)
    await store.open(is_supervisor=True)
    try:
        yield store
    finally:
        await store.close()


def mail(*recipients: str, body: bytes = b"body\r\n", due: float = 0.0, warn: float | None = None) -> Entry:
    addresses = [Address(*one.split("@")) for one in recipients or ("bob@example.org",)]
    client = Client("in", "submission", ip_address("192.0.2.1"), 4711, "client.example", login="ann")
    envelope = Envelope(new_id(SystemClock().time()), client, Address("ann", "example.org"), recipients=addresses)
    message = Message.parse(b"From: ann@example.org\r\nSubject: hello\r\n\r\n" + body)
    queued = tuple(Recipient(one, HOP, due=due, expires=FAR, warn=warn) for one in addresses)
    return Entry(envelope, message, SystemClock().time(), True, queued)


def until() -> float:
    return SystemClock().monotonic() + 60.0


def settled(delivery: Delivery, move: Move, **values: Any) -> list[Settlement]:
    return [Settlement(one.number, move, one.attempts + 1, **values) for one in delivery.queued.recipients]


async def found(store: Store, entry: Entry) -> Queued:
    queued = await store.find(entry.envelope.id)
    assert queued is not None
    return queued


async def claim_all(store: Store, limit: int = 7) -> list[Delivery]:
    claimed: list[Delivery] = []
    while more := await store.claim(HOP, limit):
        claimed += more
    return claimed


def pairs(deliveries: Sequence[Delivery]) -> list[tuple[str, int]]:
    return [(one.queued.envelope.id, each.number) for one in deliveries for each in one.queued.recipients]


# --- a message's way -------------------------------------------------------------------------------


async def test_a_message_comes_back_as_it_went_in_and_goes_with_its_last_recipient(url: str, server: Postgres) -> None:
    body = b"".join(b"%08d\r\n" % number for number in range(150_000))
    entry = mail("bob@example.org", "cÿn@example.org", body=body, warn=FAR)
    envelope = entry.envelope
    envelope.ret, envelope.envid, envelope.smtputf8 = "HDRS", "e+3Dx", True
    notify = Notify("NEVER", "rfc822;bob@example.org")
    envelope.notify = {envelope.recipients[0]: notify}
    bob, cyn = entry.recipients
    entry = replace(entry, recipients=(replace(bob, notify=notify), cyn))
    async with relay(url, "one") as one, relay(url, "two") as two:
        assert await one.keep(entry, until()) == ()
        [delivery] = await two.claim(HOP, 10)
        assert delivery.queued.envelope == envelope
        assert (delivery.queued.size, delivery.queued.is_reportable) == (entry.message.size, True)
        assert [each.notify.on for each in delivery.queued.recipients] == ["NEVER", ""]
        content = await two.content(envelope.id)
        assert content == bytes(entry.message)
        assert await two.settle(delivery, settled(delivery, Move.DELIVERED)) == frozenset()
        assert await one.find(envelope.id) is None
        assert await one.content(envelope.id) is None
    for table in ("message", "recipient", "content"):
        assert server.sql(f"SELECT count(*) FROM {table}", database=url.rpartition("/")[2]) == "0"


async def test_an_operator_moves_what_nobody_has(url: str) -> None:
    async with relay(url, "one") as one:
        entries = [mail("Bob@Example.ORG"), mail("eve@example.net")]
        for entry in entries:
            await one.keep(entry, until())
        [active] = await one.claim(HOP, 1)
        assert await one.move(Selection(), Move.HOLD, "by hand") == 1
        assert [each.hop for each in await one.depth()] == [HOP, HOP]
        assert await one.move(Selection(recipient="bob@example.org"), Move.RELEASE, extend=5.0) in (0, 1)
        await one.settle(active, settled(active, Move.DEFERRED, delay=60.0))
        assert await one.move(Selection(sender="@EXAMPLE.org"), Move.DROP) == 2
        assert await one.select(Selection()) == ()


# --- many relays -----------------------------------------------------------------------------------


async def test_claims_of_several_relays_never_overlap(url: str) -> None:
    async with relay(url, "one") as one, relay(url, "two") as two, relay(url, "three") as three:
        entries = [mail("bob@example.org", "eve@example.org") for _ in range(150)]
        await asyncio.gather(*(one.keep(entry, until()) for entry in entries))
        claims = await asyncio.gather(*(claim_all(store) for store in (one, two, three)))
        claimed = [pair for claim in claims for pair in pairs(claim)]
        assert len(claimed) == len(set(claimed)) == 300
        assert all(claims), "each of them got some"


async def test_two_relays_that_settle_the_last_two_recipients_leave_nothing_behind(url: str, server: Postgres) -> None:
    async with relay(url, "one") as one, relay(url, "two") as two:
        for _ in range(30):
            entry = mail("bob@example.org", "eve@example.net")
            bob, eve = entry.recipients
            other = Recipient(eve.address, "other", expires=FAR)
            await one.keep(Entry(entry.envelope, entry.message, 0.0, True, (bob, other)), until())
            [first], [second] = await one.claim(HOP, 1), await two.claim("other", 1)
            await asyncio.gather(
                one.settle(first, settled(first, Move.DELIVERED)), two.settle(second, settled(second, Move.SILENT))
            )
    assert server.sql("SELECT count(*) FROM message", database=url.rpartition("/")[2]) == "0"


async def test_a_relay_that_starts_leaves_alone_what_the_others_have(url: str) -> None:
    async with relay(url, "one") as one:
        await one.keep(mail(), until())
        [delivery] = await one.claim(HOP, 1)
        async with relay(url, "two") as two:
            assert await two.claim(HOP, 1) == ()
        assert await one.settle(delivery, settled(delivery, Move.DELIVERED)) == frozenset()


# --- leases ----------------------------------------------------------------------------------------


async def test_leases_run_by_the_clock_of_the_database(url: str) -> None:
    years = 3 * 365 * 86400.0
    past, future = JumpingClock(SystemClock().time() - years), JumpingClock(SystemClock().time() + years)
    async with relay(url, "past", clock=past) as one, relay(url, "future", clock=future, lease=0.3) as two:
        await one.keep(mail(), future.monotonic())
        [delivery] = await one.claim(HOP, 1)
        assert await two.lapse() == 0
        await one.give_back([delivery])
        [delivery] = await two.claim(HOP, 1)
        for _ in range(3):
            await asyncio.sleep(0.2)
            await two.renew()
            assert await one.lapse() == 0
        await asyncio.sleep(0.4)
        assert await one.lapse() == 1
        assert len(await one.claim(HOP, 1)) == 1


async def test_a_relay_whose_clock_is_behind_sees_what_is_due(url: str) -> None:
    behind = JumpingClock(SystemClock().time() - 3600.0)
    async with relay(url, "one") as one, relay(url, "behind", clock=behind) as two:
        await one.keep(mail(due=SystemClock().time()), until())
        wait = await two.due_in([HOP])
        assert wait is not None
        assert -60.0 < wait <= 0.0


async def test_a_relay_that_was_frozen_past_its_lease_settles_nothing(url: str) -> None:
    facts: list[Fact] = []
    async with relay(url, "frozen", lease=0.1, facts=facts) as frozen, relay(url, "two", facts=facts) as two:
        entry = mail("bob@example.org", "eve@example.org")
        await two.keep(entry, until())
        [late] = await frozen.claim(HOP, 1)
        await asyncio.sleep(0.2)
        assert await two.lapse() == 2
        [delivery] = await two.claim(HOP, 1)
        assert await frozen.settle(late, settled(late, Move.DELIVERED)) == {1, 2}
        assert [each.state for each in (await found(two, entry)).recipients] == [State.ACTIVE, State.ACTIVE]
        await frozen.renew()  # of what it has, and that is nothing
        assert await two.settle(delivery, settled(delivery, Move.DELIVERED)) == frozenset()
    # Both sides tell of the copy that there may be.
    reasons = [(fact.event, fact.values["may_duplicate"]) for fact in facts if "may_duplicate" in fact.values]
    assert sorted(reasons) == [("queue.lapsed", "crash")] * 2 + [("queue.lease_lost", "lease")] * 2


async def test_two_reporters_make_one_report(url: str) -> None:
    async with relay(url, "one") as one, relay(url, "two") as two:
        for _ in range(10):
            await one.keep(mail(), until())
            [delivery] = await one.claim(HOP, 1)
            await one.settle(delivery, settled(delivery, Move.FINAL, action=Action.FAILED))
            [seen], [seen_too] = await one.reportable(10), await two.reportable(10)
            made = await asyncio.gather(one.report(seen, mail()), two.report(seen_too, mail()))
            assert sorted(made) == [False, True]
            [report] = await one.claim(HOP, 10)
            await one.settle(report, settled(report, Move.DELIVERED))


# --- commits whose outcome nobody knows ------------------------------------------------------------


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_message_whose_commit_is_unknown_is_refused_for_now_and_delivered_if_it_is_there(
    url: str, server: Postgres, cut: Cut
) -> None:
    facts: list[Fact] = []
    async with Wire(server.port) as wire, relay(wire.through(url), "one", facts=facts) as one:
        wire.cut = cut
        entry = mail()
        with pytest.raises(CommitUnknown) as caught:
            await one.keep(entry, until(), claim=[HOP])
        wire.cut = None
        assert str(caught.value.reply) == "451 4.3.0 internal trouble, try again later"
        [trouble] = [fact for fact in facts if fact.event == "queue.trouble"]
        assert (trouble.id, trouble.values["may_duplicate"]) == (entry.envelope.id, "commit")
        await one.renew()
        deliveries = await one.claim(HOP, 10)
        assert len(deliveries) == (1 if cut is Cut.BEHIND else 0)
        assert all(each.crashes == 1 for one in deliveries for each in one.queued.recipients)


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_claim_whose_commit_is_unknown_comes_back(url: str, server: Postgres, cut: Cut) -> None:
    async with Wire(server.port) as wire, relay(wire.through(url), "one") as one, relay(url, "two") as two:
        await one.keep(mail(), until())
        wire.cut = cut
        with pytest.raises(CommitUnknown):
            await one.claim(HOP, 10)
        with pytest.raises(NotKept):
            await one.renew()
        wire.cut = None
        await one.renew()  # it is nobody's, and must not be renewed for ever
        [delivery] = await two.claim(HOP, 10)
        assert [each.crashes for each in delivery.queued.recipients] == [1]


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_settlement_whose_commit_is_unknown_can_be_made_again(url: str, server: Postgres, cut: Cut) -> None:
    async with Wire(server.port) as wire, relay(wire.through(url), "one") as one:
        entry = mail()
        await one.keep(entry, until())
        [delivery] = await one.claim(HOP, 10)
        wire.cut = cut
        with pytest.raises(CommitUnknown):
            await one.settle(delivery, settled(delivery, Move.DELIVERED))
        wire.cut = None
        await one.settle(delivery, settled(delivery, Move.DELIVERED))
        assert await one.find(entry.envelope.id) is None


# --- trouble ---------------------------------------------------------------------------------------


async def test_while_the_database_is_gone_mail_is_refused_for_now_and_nothing_is_lost(
    url: str, server: Postgres
) -> None:
    async with relay(url, "one") as one:
        before, behind = mail(), mail()
        await one.keep(before, until())
        [delivery] = await one.claim(HOP, 10)
        await asyncio.to_thread(server.crash)
        try:
            with pytest.raises(Unavailable) as caught:
                await one.keep(mail(), until())
            assert caught.value.reply.code == 451
            with pytest.raises(Unavailable):
                await one.content(before.envelope.id)
        finally:
            await asyncio.to_thread(server.start)
        await one.keep(behind, until())
        assert await one.settle(delivery, settled(delivery, Move.DEFERRED)) == frozenset()
        assert len(await one.claim(HOP, 10)) == 2

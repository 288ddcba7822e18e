"""What the store is told it tells again, and no recipient is anywhere but where `states.py` says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from relay.address import Address
from relay.envelope import Client, Envelope, Notify, Tls, new_id
from relay.errors import ConfigError
from relay.fact import Fact
from relay.message import CHUNK, Message
from relay.queue.entry import Action, Entry, Queued, Recipient, Selection, Settlement
from relay.queue.states import Move, State
from relay.queue.store import Store
from tests.support.clock import TwoClocks
from tests.support.storing import CONTENT, CRASHES, DAY, FIRST_RETRY, HEADER, LEASE, each, make_entry, open_store


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
def clock() -> TwoClocks:
    return TwoClocks()


@pytest.fixture
async def store(tmp_path: Path, facts: list[Fact], clock: TwoClocks) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "queue.db", clock=clock, facts=facts) as store:
        yield store


async def keep(store: Store, clock: TwoClocks, *recipients: str, **values: object) -> Entry:
    entry = make_entry(*recipients, now=clock.time(), **values)  # type: ignore[arg-type]
    await store.keep(entry, clock.monotonic() + 60)
    return entry


async def find(store: Store, entry: Entry) -> Queued:
    found = await store.find(entry.envelope.id)
    assert found is not None
    return found


async def states(store: Store, entry: Entry) -> list[State]:
    return [one.state for one in (await find(store, entry)).recipients]


# --- in and out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        b"Subject: no body\r\n",
        b"no header\r\n",
        b"",
        HEADER + bytes(range(256)),
        HEADER + b"." * (CHUNK - len(HEADER)),
        HEADER + b"." * (CHUNK - len(HEADER) + 1),
        HEADER + b"." * (CHUNK * 3 + 1),
    ],
    ids=["plain", "no body", "no header", "empty", "all octets", "one piece", "two pieces", "many pieces"],
)
async def test_the_content_is_what_was_kept(store: Store, clock: TwoClocks, content: bytes) -> None:
    entry = await keep(store, clock, content=content)
    assert await store.content(entry.envelope.id) == bytes(Message.parse(content))
    assert (await find(store, entry)).size == len(bytes(Message.parse(content)))


async def test_the_whole_envelope_comes_back(store: Store, clock: TwoClocks) -> None:
    tls = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
    client = Client("in", "gateway", ip_address("2001:db8::1"), 1234, "[10.0.0.1]", False, tls, "ann \x00\u2028")
    quoted, unicode, bare = (
        Address('"a@b \\" c"', "example.net"),
        Address("jörg", "bücher.example"),
        Address("Postmaster", ""),
    )
    notify = Notify("SUCCESS,DELAY", "rfc822;a+2Bb@example.net")
    envelope = Envelope(
        new_id(clock.time()), client, unicode, 99, True, True, [quoted, unicode, bare], "HDRS", "e+3D", {quoted: notify}
    )
    recipients = (
        Recipient(quoted, "a", State.HELD, 0, 4, 1, 1.5, 2.5, 3.5, 4.5, notify, "450 4.2.0 busy", "mx", "rcpt: busy"),
        Recipient(unicode, "b", State.REPORT, 0, 1, reply="550 5.1.1 no", action=Action.FAILED),
        Recipient(bare, "b", due=clock.time() + 1),
    )
    await store.keep(Entry(envelope, Message.parse(CONTENT), 12.5, False, recipients), clock.monotonic() + 1)
    numbered = tuple(replace(one, number=number) for number, one in enumerate(recipients, 1))
    assert await store.find(envelope.id) == Queued(envelope, len(CONTENT), 12.5, False, numbered)


async def test_the_null_reverse_path_is_no_empty_address(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, sender=None)
    assert (await find(store, entry)).envelope.reverse_path is None


async def test_hostile_text_is_data(store: Store, clock: TwoClocks) -> None:
    """I6: values are bound, never written into the SQL."""
    evil = '"x\'/**/UNION/**/SELECT--"@example.org'
    entry = await keep(store, clock, evil)
    (delivery,) = await store.claim("next", 10)
    await store.settle(delivery, each(delivery, Move.STRANDED, reply="'); DROP TABLE message; --", cause="x' OR 1=1"))
    assert (await find(store, entry)).recipients[0].reply == "'); DROP TABLE message; --"
    assert await store.select(Selection(recipient="' OR 1=1 --")) == ()
    assert await store.select(Selection(sender="@%")) == ()
    assert await store.find("' OR 1=1 --") is None


async def test_a_piece_that_is_missing_is_seen(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, content=HEADER + b"." * 3 * CHUNK)
    delete = "DELETE FROM content WHERE number = 2"
    await store._engine.transact([lambda connection, now: connection.exec_driver_sql(delete).rowcount])
    assert await store.content(entry.envelope.id) is None
    assert await store.content("unknown") is None


# --- claims and what becomes of them -------------------------------------------------------------


async def test_born_with_an_attempt(store: Store, clock: TwoClocks) -> None:
    """The attempt is written in the transaction that keeps the message: no second commit before the hop is called."""
    entry = make_entry("a@x one", "b@x two", "c@x one", now=clock.time())
    (delivery,) = await store.keep(entry, clock.monotonic() + 1, claim={"one"})
    assert delivery.message is entry.message
    assert (delivery.hop, delivery.claimed) == ("one", clock.time())
    assert [(str(one.address), one.number) for one in delivery.queued.recipients] == [("a@x", 1), ("c@x", 3)]
    assert delivery.queued.envelope.recipients == [Address("a", "x"), Address("c", "x")]
    assert await states(store, entry) == [State.ACTIVE, State.WAITING, State.ACTIVE]
    assert [one.crashes for one in (await find(store, entry)).recipients] == [1, 0, 1]
    assert await store.claim("one", 10) == ()


async def test_the_oldest_due_comes_first_with_all_of_its_recipients(store: Store, clock: TwoClocks) -> None:
    late = await keep(store, clock, "a@x", "b@x", due=clock.time() - 1)
    early = await keep(store, clock, "c@x", "d@x other", due=clock.time() - 9)
    await keep(store, clock, due=clock.time() + 1)
    deliveries = await store.claim("next", 10)
    assert [one.queued.envelope.id for one in deliveries] == [early.envelope.id, late.envelope.id]
    assert [len(one.queued.recipients) for one in deliveries] == [1, 2]
    assert {one.message for one in deliveries} == {None}
    assert await store.claim("next", 10) == ()
    clock.passes(1)
    assert len(await store.claim("next", 10)) == 1


async def test_a_claim_is_limited(store: Store, clock: TwoClocks) -> None:
    for _ in range(5):
        await keep(store, clock)
    assert [len(await store.claim("next", 2)) for _ in range(4)] == [2, 2, 1, 0]


async def test_settled_recipients_move_and_the_last_one_takes_the_message_along(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, *(f"{one}@x" for one in "abcde"))
    (delivery,) = await store.claim("next", 10)
    said = {"reply": "450 4.2.0 busy", "host": "mx.example", "cause": "rcpt: busy"}
    settlements = [
        Settlement(1, Move.DELIVERED, 1),
        Settlement(2, Move.DEFERRED, 1, delay=60.0, **said),
        Settlement(3, Move.FINAL, 1, action=Action.FAILED),
        Settlement(4, Move.STRANDED, 1),
        Settlement(5, Move.SILENT, 1),
    ]
    assert await store.settle(delivery, settlements) == frozenset()
    done, waiting, report, held, silent = (await find(store, entry)).recipients
    assert (done.state, report.state, held.state, silent.state) == (State.DONE, State.REPORT, State.HELD, State.DONE)
    assert report.action is Action.FAILED
    assert (waiting.state, waiting.attempts, waiting.crashes) == (State.WAITING, 1, 0)
    assert (waiting.due, waiting.tried) == (clock.time() + 60, clock.time())
    assert (waiting.reply, waiting.host, waiting.cause) == ("450 4.2.0 busy", "mx.example", "rcpt: busy")
    clock.passes(60)
    (again,) = await store.claim("next", 10)
    await store.settle(again, each(again, Move.DELIVERED))
    (queued,) = await store.reportable(10)
    assert await store.report(queued, None)
    assert await store.content(entry.envelope.id) is not None
    assert await store.move(Selection(), Move.DROP) == 1  # the one that is held, the last of all
    assert await store.find(entry.envelope.id) is None
    assert await store.content(entry.envelope.id) is None


async def test_what_is_given_back_was_never_claimed(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock)
    before = await find(store, entry)
    await store.give_back(await store.claim("next", 10))
    assert await find(store, entry) == before


async def test_who_lost_the_lease_settles_nothing(store: Store, clock: TwoClocks, facts: list[Fact]) -> None:
    entry = await keep(store, clock, "a@x", "b@x")
    (first,) = await store.claim("next", 10)
    clock.passes(LEASE)
    assert await store.lapse() == 2
    (second,) = await store.claim("next", 10)
    assert await store.settle(first, each(first, Move.DELIVERED)) == {1, 2}
    assert await states(store, entry) == [State.ACTIVE, State.ACTIVE]
    lost = [fact for fact in facts if fact.event == "queue.lease_lost"]
    assert [(fact.id, fact.values["to"], fact.values["may_duplicate"]) for fact in lost] == [
        (entry.envelope.id, "a@x", "lease"),
        (entry.envelope.id, "b@x", "lease"),
    ]
    assert await store.settle(second, each(second, Move.DELIVERED)) == frozenset()
    assert await store.settle(second, each(second, Move.DELIVERED)) == {1, 2}
    assert await store.find(entry.envelope.id) is None


async def test_a_renewed_lease_does_not_run_out(store: Store, clock: TwoClocks) -> None:
    await keep(store, clock)
    (delivery,) = await store.claim("next", 10)
    for _ in range(5):
        clock.passes(LEASE / 2)
        await store.renew()
        assert await store.lapse() == 0
    assert await store.settle(delivery, each(delivery, Move.DELIVERED)) == frozenset()


async def test_a_lease_runs_out_at_its_time(store: Store, clock: TwoClocks, facts: list[Fact]) -> None:
    entry = await keep(store, clock)
    await store.claim("next", 10)
    clock.passes(LEASE - 1)
    assert await store.lapse() == 0
    clock.passes(1)
    assert await store.lapse() == 1
    (fact,) = [fact for fact in facts if fact.event == "queue.lapsed"]
    assert (fact.id, fact.values["may_duplicate"], fact.values["crashes"]) == (entry.envelope.id, "crash", 1)


async def test_crash_after_crash_the_message_waits_longer_and_is_held(
    tmp_path: Path, clock: TwoClocks, facts: list[Fact]
) -> None:
    waits = []
    for crash in range(1, CRASHES + 1):
        async with open_store(tmp_path / "queue.db", clock=clock, owner=f"owner {crash}", facts=facts) as store:
            if crash == 1:
                entry = await keep(store, clock)
            (delivery,) = await store.claim("next", 10)
            assert delivery.queued.recipients[0].crashes == crash
        async with open_store(tmp_path / "queue.db", clock=clock, owner=f"after {crash}", facts=facts) as store:
            (recipient,) = (await find(store, entry)).recipients
            waits.append(recipient.due - clock.time())
            clock.passes(max(0.0, waits[-1]))
    assert waits[:-1] == [0.0, FIRST_RETRY]
    assert (recipient.state, recipient.cause, recipient.crashes) == (State.HELD, "poison", CRASHES)
    assert [fact.values["state"] for fact in facts if fact.event == "queue.lapsed"] == ["waiting", "waiting", "held"]


async def test_one_known_outcome_ends_the_count(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock)
    for _ in range(CRASHES * 2):
        (delivery,) = await store.claim("next", 10)
        await store.settle(delivery, each(delivery, Move.DEFERRED))
    assert (await find(store, entry)).recipients[0].crashes == 0


async def test_the_dead_owners_alone_are_taken_back(tmp_path: Path, clock: TwoClocks) -> None:
    async with (
        open_store(tmp_path / "queue.db", clock=clock, owner="dead") as dead,
        open_store(tmp_path / "queue.db", clock=clock, owner="alive", is_supervisor=False) as alive,
    ):
        first, second = await keep(alive, clock, "a@x one"), await keep(alive, clock, "b@x two")
        await dead.claim("one", 10)
        await alive.claim("two", 10)
        assert await alive.lapse(owner="dead") == 1
        assert await states(alive, first) == [State.WAITING]
        assert await states(alive, second) == [State.ACTIVE]


async def test_what_is_expired_can_be_claimed_before_it_is_due(store: Store, clock: TwoClocks) -> None:
    now = clock.time()
    entry = await keep(store, clock, "a@x one", "b@x two", due=now + 2 * DAY, expires=now + DAY)
    assert await store.claim_expired(10) == ()
    clock.passes(DAY)
    assert await store.claim("one", 10) == ()
    deliveries = await store.claim_expired(10)
    assert [(one.hop, one.queued.envelope.id) for one in deliveries] == [
        ("one", entry.envelope.id),
        ("two", entry.envelope.id),
    ]


async def test_the_next_due_is_that_of_the_hops_asked_for(store: Store, clock: TwoClocks) -> None:
    assert await store.due_in(["one", "two"]) is None
    for hop, wait in (("one", 30), ("one", 20), ("two", 10)):
        await keep(store, clock, f"a@x {hop}", due=clock.time() + wait)
    assert await store.due_in(["one"]) == 20
    assert await store.due_in(["one", "two"]) == 10
    assert await store.due_in([]) is None


# --- reports -------------------------------------------------------------------------------------


async def fail(store: Store, hop: str = "next") -> None:
    (delivery,) = await store.claim(hop, 10)
    await store.settle(delivery, each(delivery, Move.FINAL, action=Action.FAILED, reply="550 5.1.1 no"))


async def test_a_report_waits_for_what_is_being_attempted(store: Store, clock: TwoClocks) -> None:
    await keep(store, clock, "a@x one", "b@x two")
    (running,) = await store.claim("two", 10)
    await fail(store, "one")
    assert await store.reportable(10) == ()
    await store.settle(running, each(running, Move.DEFERRED, delay=60.0))
    (queued,) = await store.reportable(10)
    assert [str(one.address) for one in queued.recipients] == ["a@x"]
    assert queued.envelope.recipients == [Address("a", "x")]


async def test_a_report_is_in_the_queue_once_and_the_recipients_are_done(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, "a@x one", "b@x two")
    await fail(store, "one")
    (queued,) = await store.reportable(10)
    reports = [make_entry("ann@example.org", sender=None, now=clock.time()) for _ in range(2)]
    assert await store.report(queued, reports[0])
    assert not await store.report(queued, reports[1])  # as after a crash, or by another relay
    assert await states(store, entry) == [State.DONE, State.WAITING]
    assert await states(store, reports[0]) == [State.WAITING]
    assert await store.find(reports[1].envelope.id) is None
    assert await store.reportable(10) == ()


async def test_a_report_on_the_last_recipient_deletes_the_message(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock)
    await fail(store)
    (queued,) = await store.reportable(10)
    report = make_entry("ann@example.org", sender=None, now=clock.time())
    assert await store.report(queued, report)
    assert [one.envelope.id for one in await store.select(Selection())] == [report.envelope.id]
    assert await store.content(entry.envelope.id) is None


async def test_who_has_heard_of_the_delay_hears_it_once(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, warn=clock.time() + 60)
    assert await store.reportable(10) == ()
    clock.passes(60)
    (queued,) = await store.reportable(10)
    assert await store.report(queued, None)
    assert await store.reportable(10) == ()
    (recipient,) = (await find(store, entry)).recipients
    assert (recipient.state, recipient.warn) == (State.WAITING, None)
    assert not await store.report(queued, None)


async def test_nothing_is_written_if_one_of_them_has_changed(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, "a@x one", "b@x two", warn=clock.time())
    await fail(store, "one")
    (queued,) = await store.reportable(10)
    assert [one.state for one in queued.recipients] == [State.REPORT, State.WAITING]
    await store.claim("two", 10)
    report = make_entry("ann@example.org", sender=None, now=clock.time())
    assert not await store.report(queued, report)
    assert await states(store, entry) == [State.REPORT, State.ACTIVE]
    assert await store.find(report.envelope.id) is None


# --- an operator's -------------------------------------------------------------------------------


async def test_pages_are_in_the_order_of_arrival(store: Store, clock: TwoClocks) -> None:
    entries = []
    for _ in range(5):
        entries.append(await keep(store, clock))
        clock.passes(1)
    ids = [one.envelope.id for one in entries]
    first = await store.select(Selection(), 2)
    assert [one.envelope.id for one in first] == ids[:2]
    assert [one.envelope.id for one in await store.select(Selection(), 10, after=ids[1])] == ids[2:]


async def test_a_selection_means_what_it_says(store: Store, clock: TwoClocks) -> None:
    old = await keep(store, clock, "Bob@Example.NET one", "eve@x two", sender=Address("Ann", "Bücher.example"))
    clock.passes(3600)
    new = await keep(store, clock, "bob@sub.example.net one", sender=None)
    (held,) = await store.claim("two", 10)
    await store.settle(held, each(held, Move.STRANDED))

    async def selected(**values: object) -> list[tuple[str, list[str]]]:
        found = await store.select(Selection(**values))  # type: ignore[arg-type]
        names = {old.envelope.id: "old", new.envelope.id: "new"}
        return [(names[one.envelope.id], [two.address.local for two in one.recipients]) for one in found]

    assert await selected() == [("old", ["Bob", "eve"]), ("new", ["bob"])]
    assert await selected(recipient="bob@example.net") == [("old", ["Bob"])]
    assert await selected(recipient="@example.net") == [("old", ["Bob"])]
    assert await selected(recipient="b_b@example.net") == []
    assert await selected(sender="ann@bücher.example") == [("old", ["Bob", "eve"])]
    assert await selected(sender="<>") == [("new", ["bob"])]
    assert await selected(hop="one") == [("old", ["Bob"]), ("new", ["bob"])]
    assert await selected(state=State.HELD) == [("old", ["eve"])]
    assert await selected(older=3600.0) == [("old", ["Bob", "eve"])]
    assert await selected(ids=(new.envelope.id, "unknown")) == [("new", ["bob"])]
    assert await selected(ids=(new.envelope.id,), state=State.HELD) == []


@pytest.mark.parametrize(
    ("move", "before", "after"),
    [
        (Move.HOLD, State.WAITING, State.HELD),
        (Move.RELEASE, State.HELD, State.WAITING),
        (Move.RETRY, State.WAITING, State.WAITING),
        (Move.DROP, State.WAITING, None),
        (Move.DROP, State.HELD, None),
        (Move.DROP, State.REPORT, None),
    ],
)
async def test_an_operator_moves(
    store: Store, clock: TwoClocks, move: Move, before: State, after: State | None
) -> None:
    entry = await keep(store, clock, state=before, due=clock.time() + 60)
    other = await keep(store, clock)
    await store.claim("next", 10)
    assert await store.move(Selection(), move, "said so") == 1
    found = await store.find(entry.envelope.id)
    assert (found and found.recipients[0].state) == after
    assert await states(store, other) == [State.ACTIVE]  # whatever an operator says


async def test_release_gives_a_new_chance(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, state=State.HELD, expires=clock.time() - 1, crashes=CRASHES, cause="poison")
    await store.move(Selection(), Move.RELEASE, extend=DAY)
    (recipient,) = (await find(store, entry)).recipients
    assert (recipient.due, recipient.expires, recipient.crashes, recipient.cause) == (
        (clock.time(), clock.time() + DAY, 0, "")
    )


async def test_release_does_not_shorten(store: Store, clock: TwoClocks) -> None:
    entry = await keep(store, clock, state=State.HELD)
    await store.move(Selection(), Move.RELEASE, extend=DAY)
    assert (await find(store, entry)).recipients[0].expires == clock.time() + 5 * DAY


async def test_all_are_moved_page_by_page(store: Store, clock: TwoClocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.queue.store.MOVED_AT_ONCE", 3)
    for _ in range(10):
        await keep(store, clock, "a@x", "b@x")
    told: list[str] = []
    assert await store.move(Selection(), Move.RETRY, tell=lambda moved: told.extend(one.id for one in moved)) == 20
    assert len(set(told)) == 10


async def test_depth_counts_by_hop_and_state(store: Store, clock: TwoClocks) -> None:
    began = clock.time()
    await keep(store, clock, "a@x one", "b@x one", "c@x two")
    clock.passes(10)
    await keep(store, clock, "d@x one")
    await keep(store, clock, "e@x two", state=State.HELD)
    (done,) = await store.claim("two", 1)
    await store.settle(done, each(done, Move.DELIVERED))
    found = {(one.hop, one.state): (one.recipients, one.messages, one.oldest) for one in await store.depth()}
    assert found == {("one", State.WAITING): (3, 2, began), ("two", State.HELD): (1, 1, began + 10)}


# --- start and stop ------------------------------------------------------------------------------


async def test_after_a_clean_stop_nothing_is_checked(tmp_path: Path) -> None:
    for _ in range(2):
        facts: list[Fact] = []
        async with open_store(tmp_path / "queue.db", facts=facts):
            pass
        assert [fact.event for fact in facts if fact.event == "queue.checked"] == []


async def test_after_an_unclean_stop_the_file_is_checked(tmp_path: Path) -> None:
    async with open_store(tmp_path / "queue.db") as store:
        await store.keep(make_entry(), asyncio.get_running_loop().time() + 60)
        store._is_supervisor = False  # its last word is not said
    facts: list[Fact] = []
    async with open_store(tmp_path / "queue.db", facts=facts) as store:
        assert facts[0].event == "queue.checked"
        store._is_supervisor = False
    file = tmp_path / "queue.db"
    content = bytearray(file.read_bytes())
    page = content.index(b"bob@example.net") // 4096 * 4096
    content[page : page + 8] = b"\xff" * 8
    file.write_bytes(content)
    for _ in range(2):  # to have looked does not mend it
        with pytest.raises(ConfigError, match=r"damaged|cannot be opened"):
            async with open_store(tmp_path / "queue.db"):
                pass


LARGE = """
import asyncio, re, sys
from pathlib import Path
from tests.support.storing import HEADER, make_entry, open_store, soon

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        small = make_entry()
        await store.keep(small, soon())
        await store.content(small.envelope.id)
        entry = make_entry(content=HEADER + b"." * 40_000_000)
        before = peak()
        await store.keep(entry, soon(), claim=("next",))
        kept = peak()
        content = await store.content(entry.envelope.id)
        print(kept - before, peak() - kept, len(content) == entry.message.size)

asyncio.run(main())
"""


def test_a_large_message_is_never_in_memory_twice(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    ended = subprocess.run([sys.executable, "-c", LARGE, tmp_path / "queue.db"], capture_output=True, timeout=60)
    kept, read, is_whole = ended.stdout.decode().split()
    assert int(kept) < 20_000_000
    assert int(read) < 60_000_000
    assert is_whole == "True"

"""Many share one sync; none pays for another; and a commit outlives the session that asked for it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from relay import reply
from relay.clock import SystemClock
from relay.fact import Fact
from relay.queue import group_commit, operations
from relay.queue.engine import CommitUnknown, NotKept, Operation, Unavailable
from relay.queue.entry import Delivery, Selection
from relay.queue.sqlite import SqliteEngine
from relay.queue.states import Move, State
from relay.queue.store import Store
from tests.support.storing import HEADER, each, make_entry, open_store, soon


class Gate(SqliteEngine):
    """A database whose commits can be held up, before or behind them; and fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SystemClock())
        self.before, self.behind = asyncio.Event(), asyncio.Event()
        self.before.set()
        self.behind.set()
        self.begun = asyncio.Event()
        self.fault: BaseException | None = None
        self.fault_behind: BaseException | None = None

    async def transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        self.begun.set()
        await self.before.wait()
        if self.fault:
            raise self.fault
        results = await super().transact(operations)
        await self.behind.wait()
        if self.fault_behind:
            raise self.fault_behind
        return results


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
async def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "queue.db")


@pytest.fixture
async def store(gate: Gate, facts: list[Fact]) -> AsyncIterator[Store]:
    async with open_store(gate.path, engine=gate, facts=facts) as store:
        facts.clear()
        gate.begun.clear()
        yield store
        gate.before.set()
        gate.behind.set()
        gate.fault = gate.fault_behind = None


async def kept(store: Store, *, claim: tuple[str, ...] = (), until: float | None = None) -> tuple[Delivery, ...]:
    return await store.keep(make_entry(), soon() if until is None else until, claim=claim)


async def states(store: Store) -> list[State]:
    return [one.state for queued in await store.select(Selection()) for one in queued.recipients]


def commits(wal: Path) -> int:
    """Transactions in a write-ahead log: frames that give the size of the database (SQLite file format §4.1)."""
    content = wal.read_bytes()
    page = struct.unpack(">I", content[8:12])[0]
    frames = range(32, len(content), 24 + page)
    return sum(struct.unpack(">I", content[at + 4 : at + 8])[0] > 0 for at in frames)


# --- together ------------------------------------------------------------------------------------


async def test_who_waits_together_shares_one_commit(store: Store, gate: Gate, facts: list[Fact]) -> None:
    wal = gate.path.with_name("queue.db-wal")
    before = commits(wal)
    await asyncio.gather(*(kept(store) for _ in range(50)))
    assert commits(wal) - before == 1
    deliveries = await store.claim("next", 50)
    before = commits(wal)
    lost = await asyncio.gather(*(store.settle(one, each(one, Move.DELIVERED)) for one in deliveries))
    assert commits(wal) - before == 1
    assert lost == [frozenset()] * 50
    assert await states(store) == []
    told = [fact.values["operations"] for fact in facts if fact.event == "queue.committed"]
    assert told == [50, 1, 50]


async def test_all_kinds_of_work_go_together(store: Store, gate: Gate, facts: list[Fact]) -> None:
    (delivery,) = await kept(store, claim=("next",))
    (other,) = await kept(store, claim=("next",))
    facts.clear()
    await asyncio.gather(
        kept(store),
        store.settle(delivery, each(delivery, Move.DEFERRED)),
        store.renew(),
        store.give_back([other]),
        store.claim("nowhere", 1),
    )
    assert [fact.values["operations"] for fact in facts if fact.event == "queue.committed"] == [5]
    assert await states(store) == [State.WAITING] * 3


async def test_a_batch_has_an_end(store: Store, facts: list[Fact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "BATCH", 4)
    monkeypatch.setattr(group_commit, "BATCH_OCTETS", 100_000)
    await asyncio.gather(*(kept(store) for _ in range(10)))
    large = [store.keep(make_entry(content=HEADER + b"x" * 90_000), soon()) for _ in range(4)]
    await asyncio.gather(*large)
    told = [fact.values["operations"] for fact in facts if fact.event == "queue.committed"]
    assert told == [4, 4, 2, 2, 2]


async def test_each_fact_is_told_once_behind_the_commit(store: Store, gate: Gate, facts: list[Fact]) -> None:
    gate.behind.clear()
    entry = make_entry("a@x one", "b@x two", "c@x one")
    waiting = asyncio.create_task(store.keep(entry, soon()))
    await gate.begun.wait()
    assert facts == []
    gate.behind.set()
    await waiting
    fact = facts[-1]
    assert (fact.event, fact.id, fact.level) == ("queue.kept", entry.envelope.id, "info")
    assert {**fact.values, "elapsed_ms": 0} == {
        **{"hops": ["one", "two"], "size": entry.message.size, "recipients": 3, "elapsed_ms": 0}
    }


# --- none pays for another -----------------------------------------------------------------------


async def test_one_that_cannot_be_written_costs_the_others_nothing(store: Store, facts: list[Fact]) -> None:
    twice = make_entry()
    await store.keep(twice, soon())
    results = await asyncio.gather(kept(store), store.keep(twice, soon()), kept(store), return_exceptions=True)
    assert [type(one) for one in results] == [tuple, NotKept, tuple]
    assert len(await states(store)) == 3
    error = next(fact for fact in facts if fact.event == "queue.error")
    assert error.values["cause"] == "IntegrityError"


async def test_a_settlement_that_cannot_be_is_an_error_of_its_own(store: Store) -> None:
    (one,) = await kept(store, claim=("next",))
    (other,) = await kept(store, claim=("next",))
    results = await asyncio.gather(
        store.settle(one, each(one, Move.HOLD)),  # no move of an ACTIVE recipient
        store.settle(other, each(other, Move.DELIVERED)),
        return_exceptions=True,
    )
    assert isinstance(results[0], NotKept)
    assert results[1] == frozenset()
    assert await states(store) == [State.ACTIVE]


async def test_a_database_that_is_gone_is_not_asked_for_each_of_them(store: Store, gate: Gate) -> None:
    asked = 0
    transact = gate.transact

    async def count(operations: Sequence[Operation[Any]]) -> list[Any]:
        nonlocal asked
        asked += 1
        return await transact(operations)

    gate.transact = count  # type: ignore[method-assign]
    gate.fault = Unavailable("gone")
    results = await asyncio.gather(*(kept(store) for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in results} == {Unavailable}
    assert asked == 1


# --- a commit is nobody's session ----------------------------------------------------------------


async def test_a_caller_who_left_before_it_began_leaves_no_row(store: Store, gate: Gate) -> None:
    gate.before.clear()
    first = asyncio.create_task(kept(store))
    await gate.begun.wait()
    second = asyncio.create_task(kept(store))
    third = asyncio.create_task(kept(store))
    await asyncio.sleep(0)
    second.cancel()
    gate.before.set()
    await asyncio.gather(first, third)
    assert second.cancelled()
    assert len(await states(store)) == 2


@pytest.mark.parametrize("held_up", ["before", "behind"])
async def test_a_caller_who_left_later_leaves_a_message_that_nobody_has_claimed(
    store: Store, gate: Gate, facts: list[Fact], held_up: str
) -> None:
    getattr(gate, held_up).clear()
    waiting = asyncio.create_task(kept(store, claim=("next",)))
    await gate.begun.wait()
    waiting.cancel()
    await asyncio.sleep(0)
    getattr(gate, held_up).set()
    await kept(store)  # a commit later
    (claimed, _) = await store.claim("next", 10)
    assert claimed.queued.recipients[0].crashes == 1  # the first attempt, as if there had been none
    fact = next(fact for fact in facts if fact.event == "queue.kept")
    assert fact.values["may_duplicate"] == "client"


async def test_a_caller_who_left_while_the_answer_was_on_its_way(store: Store, gate: Gate) -> None:
    gate.behind.clear()
    waiting = asyncio.create_task(kept(store, claim=("next",)))
    await gate.begun.wait()
    done = store._commits
    original = done._committed

    def committed(*arguments: Any) -> None:
        original(*arguments)
        asyncio.get_running_loop().call_soon(waiting.cancel)  # behind set_result, before the caller runs

    done._committed = committed  # type: ignore[method-assign]
    gate.behind.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    done._committed = original  # type: ignore[method-assign]
    await kept(store)
    assert await states(store) == [State.WAITING, State.WAITING]


async def test_a_claim_that_nobody_received_goes_back(store: Store, gate: Gate) -> None:
    await kept(store)
    gate.begun.clear()
    gate.behind.clear()
    claiming = asyncio.create_task(store.claim("next", 10))
    await gate.begun.wait()
    claiming.cancel()
    gate.behind.set()
    await kept(store)
    assert len(await store.claim("next", 10)) == 2


async def test_what_nobody_knows_to_be_claimed_goes_back(store: Store, gate: Gate, facts: list[Fact]) -> None:
    """The commit went through and its answer was lost: that is no crash, and renewals are not for what nobody has."""
    (held,) = await kept(store, claim=("next",))
    gate.fault_behind = CommitUnknown("the connection was cut")
    with pytest.raises(CommitUnknown) as caught:
        await kept(store, claim=("next",))
    assert caught.value.reply == reply.INTERNAL
    assert facts[-1].values["may_duplicate"] == "commit"
    with pytest.raises(CommitUnknown):
        await store.move(Selection(hop="none"), Move.RETRY)
    gate.fault_behind = None
    await store.renew()
    assert await states(store) == [State.ACTIVE, State.WAITING]
    (delivery,) = await store.claim("next", 10)
    assert delivery.queued.recipients[0].crashes == 1
    assert await store.settle(held, each(held, Move.DELIVERED)) == frozenset()


async def test_close_finishes_what_was_handed_over(gate: Gate, facts: list[Fact]) -> None:
    async with open_store(gate.path, engine=gate, facts=facts) as store:
        waiting = [asyncio.create_task(kept(store)) for _ in range(10)]
        await asyncio.sleep(0)
    assert [await one for one in waiting] == [()] * 10
    with pytest.raises(Unavailable, match="closed"):
        await kept(store)


# --- R5: failpoints ------------------------------------------------------------------------------

POINTS: dict[str, Callable[[pytest.MonkeyPatch, Gate, Callable[[], None]], None]] = {}


def point(name: str) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        POINTS[name] = function
        return function

    return add


@point("before the transaction")
def _before(monkeypatch: pytest.MonkeyPatch, gate: Gate, fail: Callable[[], None]) -> None:
    original = gate.transact

    async def transact(operations: Sequence[Operation[Any]]) -> list[Any]:
        fail()
        return await original(operations)

    monkeypatch.setattr(gate, "transact", transact)


@point("in the transaction, before the first row")
def _first(monkeypatch: pytest.MonkeyPatch, gate: Gate, fail: Callable[[], None]) -> None:
    original = operations.keep

    def keep(*arguments: Any) -> Any:
        fail()
        return original(*arguments)

    monkeypatch.setattr(operations, "keep", keep)


@point("in the transaction, behind the last row")
def _last(monkeypatch: pytest.MonkeyPatch, gate: Gate, fail: Callable[[], None]) -> None:
    original = operations.keep

    def keep(*arguments: Any) -> Any:
        result = original(*arguments)
        fail()
        return result

    monkeypatch.setattr(operations, "keep", keep)


@point("amid the rows")
def _amid(monkeypatch: pytest.MonkeyPatch, gate: Gate, fail: Callable[[], None]) -> None:
    original = operations.rows.content_rows

    def content_rows(*arguments: Any) -> Any:
        fail()
        return original(*arguments)

    monkeypatch.setattr(operations.rows, "content_rows", content_rows)


FAULTS: dict[str, BaseException] = {
    "raises": RuntimeError("a mistake of ours"),
    "is out of memory": MemoryError(),
    "is cancelled": asyncio.CancelledError(),
}


@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_250_without_a_row_and_the_next_one_is_kept(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, where: str, fault: str
) -> None:
    left = 1

    def fail() -> None:
        nonlocal left
        if left:
            left -= 1
            raise FAULTS[fault]

    async with open_store(gate.path, engine=gate) as store:
        with monkeypatch.context() as patch:
            POINTS[where](patch, gate, fail)
            (answer,) = await asyncio.gather(kept(store), return_exceptions=True)
            assert isinstance(answer, NotKept)
            assert answer.reply.is_temporary
            assert await states(store) == []
            assert await kept(store) == ()
        assert await states(store) == [State.WAITING]

"""The SQL: its tables are those of the migrations, its work lists are read by index, and its moves are the table's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import Connection, create_engine, event

from relay.queue import operations, reading, reports, selection
from relay.queue.entry import Action, Delivery, Selection, Settlement
from relay.queue.migrate import migrate
from relay.queue.operations import ANY_CRASHES, Claim, Keep
from relay.queue.schema import VERSION, metadata
from relay.queue.statements import Key
from relay.queue.states import MOVES, Move, State
from tests.support.storing import make_entry

QUEUE = Path(operations.__file__).parent
NOW = 1_790_000_000.0
CRASHES = 3


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, connection.begin():
        migrate(connection, "test")
        yield connection
    engine.dispose()


# --- the schema ----------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_are_used(connection: Connection) -> None:
    assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    made = _indexes(connection)
    metadata.drop_all(connection)
    metadata.create_all(connection)
    assert _indexes(connection) == made


def _indexes(connection: Connection) -> set[tuple[str, str]]:
    """With their conditions, at which compare_metadata does not look."""
    select = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    return {(name, sql) for name, sql in connection.exec_driver_sql(select)}


def test_the_newest_step_is_the_version(connection: Connection) -> None:
    assert ScriptDirectory(QUEUE / "migrations").get_heads() == [VERSION]
    migrate(connection, "test")  # there is no step left


def test_no_statement_is_written_with_values_in_it() -> None:
    for path in (QUEUE / f"{name}.py" for name in ("operations", "reading", "reports", "selection", "statements")):
        assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.JoinedStr)]


# --- what is asked often is read by index --------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda connection: operations.claim_due(connection, NOW, "next", 10, ANY_CRASHES, Claim("me", "token", 60.0)),
        lambda connection: operations.claim_expired(connection, NOW + 1e9, 10, Claim("me", "token", 60.0)),
        lambda connection: operations.lapse_overdue(connection, NOW, CRASHES, 300.0),
        lambda connection: operations.lapse_of(connection, NOW, "me", CRASHES, 300.0),
        lambda connection: operations.lapse_all(connection, NOW, CRASHES, 300.0),
        lambda connection: reports.reportable(connection, NOW, 10),
        lambda connection: reading.due_in(connection, NOW, ["next", "other"]),
        lambda connection: reading.whole(connection, NOW, "id"),
        lambda connection: reading.find(connection, NOW, "id"),
        lambda connection: selection.selected(connection, NOW, Selection(ids=("id",)), 10, ""),
    ],
    ids=["due", "expired", "overdue", "owner", "all", "report", "next", "content", "find", "by id"],
)
def test_a_long_queue_is_not_read_through(connection: Connection, ask: Any) -> None:
    keeps = [Keep(make_entry(now=NOW, warn=NOW + 1), ()) for _ in range(50)]
    operations.keep(connection, NOW, keeps, Claim("", "", 0.0))
    plans: list[str] = []

    def explain(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            values = parameters[0] if many else parameters
            plan = cursor.connection.execute("EXPLAIN QUERY PLAN " + statement, values)
            plans.extend(f"{row[3]} -- {statement}" for row in plan)

    event.listen(connection, "before_cursor_execute", explain)
    ask(connection)
    assert plans
    lists = ("recipient_due", "recipient_expires", "recipient_lease", "recipient_report", "recipient_warn")
    for plan in plans:
        step = plan.partition(" -- ")[0]
        assert not step.startswith("SCAN") or any(name in step for name in lists), plan
        assert "TEMP B-TREE" not in step, plan


# --- the table of moves, with everything at once ---------------------------------------------------

SETTLEMENTS = [move for state, move in MOVES if state is State.ACTIVE and move not in (Move.LAPSE, Move.POISON)]


@dataclass
class Known:
    """A recipient as it must be."""

    hop: str
    state: State
    due: float
    expires: float
    warn: float | None
    crashes: int = 0
    token: str = ""
    lease: float = 0.0


@dataclass
class Model:
    messages: dict[str, dict[int, Known]] = field(default_factory=dict)

    def each(self) -> Iterator[tuple[Key, Known]]:
        for id, recipients in self.messages.items():
            for number, one in recipients.items():
                yield Key(id, number), one

    def forget(self) -> None:
        for id in [id for id, them in self.messages.items() if all(one.state is State.DONE for one in them.values())]:
            del self.messages[id]


ENGINE = create_engine("sqlite://")
with ENGINE.begin() as empty:
    migrate(empty, "test")


class QueueMachine(RuleBasedStateMachine):
    """Relays that claim, settle, die and are taken back, a reporter, an operator: against a model in dictionaries."""

    @initialize()
    def begin(self) -> None:
        self.connection = ENGINE.connect()
        self.now, self.model, self.count = NOW, Model(), 0
        self.deliveries: list[Delivery] = []

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()  # and rolled back

    def claimer(self, lease: float = 60.0) -> Claim:
        self.count += 1
        return Claim(f"owner {self.count % 2}", f"token {self.count}", lease)

    def claimed(self, deliveries: tuple[Delivery, ...], claim: Claim) -> set[Key]:
        keys = set()
        for delivery in deliveries:
            self.deliveries.append(delivery)
            for one in delivery.queued.recipients:
                key = Key(delivery.queued.envelope.id, one.number)
                known = self.model.messages[key.message][key.number]
                known.state, known.token, known.lease = State.ACTIVE, claim.token, self.now + claim.lease
                known.crashes += 1
                assert (one.hop, one.crashes) == (delivery.hop, known.crashes)
                keys.add(key)
        return keys

    def waiting(self) -> Iterator[tuple[Key, Known]]:
        return ((key, one) for key, one in self.model.each() if one.state is State.WAITING)

    @rule(
        hops=st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3),
        born=st.sets(st.sampled_from(["a", "b"])),
        wait=st.sampled_from([0.0, 30.0]),
        warn=st.none() | st.just(45.0),
    )
    def keep(self, hops: list[str], born: set[str], wait: float, warn: float | None) -> None:
        values = {"due": self.now + wait, "expires": self.now + 500, "warn": warn and self.now + warn}
        entry = make_entry(*(f"user{n}@x {hop}" for n, hop in enumerate(hops)), now=self.now, **values)
        self.model.messages[entry.envelope.id] = {
            number: Known(hop, State.WAITING, values["due"], values["expires"], values["warn"])
            for number, hop in enumerate(hops, 1)
        }
        claim = self.claimer()
        ((*deliveries,),) = operations.keep(self.connection, self.now, [Keep(entry, born)], claim)
        keys = self.claimed(tuple(deliveries), claim)
        assert keys == {Key(entry.envelope.id, number) for number, hop in enumerate(hops, 1) if hop in born}

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0, 600.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(hop=st.sampled_from(["a", "b"]))
    def claim(self, hop: str) -> None:
        due = {key for key, one in self.waiting() if one.hop == hop and one.due <= self.now}
        claim = self.claimer()
        assert self.claimed(operations.claim_due(self.connection, self.now, hop, 100, ANY_CRASHES, claim), claim) == due

    @rule()
    def claim_expired(self) -> None:
        expired = {key for key, one in self.waiting() if one.expires <= self.now}
        claim = self.claimer()
        assert self.claimed(operations.claim_expired(self.connection, self.now, 100, claim), claim) == expired

    @rule(data=st.data(), moves=st.lists(st.sampled_from(SETTLEMENTS), min_size=3, max_size=3))
    def settle(self, data: st.DataObject, moves: list[Move]) -> None:
        if not self.deliveries:
            return
        indexes = data.draw(st.sets(st.integers(0, len(self.deliveries) - 1), min_size=1, max_size=2))
        chosen = [self.deliveries[index] for index in sorted(indexes)]
        settled, expected = [], []
        for delivery in chosen:
            id, lost, settlements = delivery.queued.envelope.id, set(), []
            for one, move in zip(delivery.queued.recipients, moves, strict=False):
                action = Action.FAILED if move is Move.FINAL else None
                settlements.append(Settlement(one.number, move, one.attempts + 1, 10.0, action=action))
                known = self.model.messages.get(id, {}).get(one.number)
                if known is None or known.token != delivery.token:
                    lost.add(one.number)
                    continue
                known.state, known.token = MOVES[State.ACTIVE, move], ""
                if move is Move.RETURN:
                    known.crashes -= 1
                else:
                    known.crashes, known.due = 0, self.now + 10.0
            settled.append((id, delivery.token, settlements))
            expected.append(frozenset(lost))
        assert operations.settle(self.connection, self.now, settled) == expected
        self.model.forget()

    def lapsed(self, keys: set[Key]) -> None:
        for key in keys:
            one = self.model.messages[key.message][key.number]
            one.state, one.token = (State.HELD if one.crashes >= CRASHES else State.WAITING), ""
            one.due = self.now + (300.0 * 2 ** (one.crashes - 2) if one.crashes >= 2 else 0.0)

    @rule()
    def lapse(self) -> None:
        overdue = {key for key, one in self.model.each() if one.state is State.ACTIVE and one.lease <= self.now}
        assert len(operations.lapse_overdue(self.connection, self.now, CRASHES, 300.0)) == len(overdue)
        self.lapsed(overdue)

    @rule()
    def restart(self) -> None:
        active = {key for key, one in self.model.each() if one.state is State.ACTIVE}
        assert len(operations.lapse_all(self.connection, self.now, CRASHES, 300.0)) == len(active)
        self.lapsed(active)

    @rule()
    def renew(self) -> None:
        held = [(key, one.token) for key, one in self.model.each() if one.state is State.ACTIVE]
        operations.renew(self.connection, self.now, held, 60.0, ())
        for key, _ in held:
            self.model.messages[key.message][key.number].lease = self.now + 60.0

    @rule(says=st.booleans())
    def report(self, says: bool) -> None:
        expected = set()
        for id, them in self.model.messages.items():
            is_tried = any(one.state is State.ACTIVE for one in them.values())
            final = {number for number, one in them.items() if one.state is State.REPORT}
            late = {
                number
                for number, one in them.items()
                if one.state is State.WAITING and one.warn is not None and one.warn <= self.now
            }
            if late or (final and not is_tried):
                expected |= {Key(id, number) for number in final | late}
        found = reports.reportable(self.connection, self.now, 1000)
        assert {Key(one.envelope.id, each.number) for one in found for each in one.recipients} == expected
        for queued in found:
            bounce = make_entry("ann@x a", now=self.now, sender=None) if says else None
            assert reports.report(self.connection, self.now, queued, bounce)
            assert not reports.report(self.connection, self.now, queued, None)
            for one in queued.recipients:
                known = self.model.messages[queued.envelope.id][one.number]
                if known.state is State.REPORT:
                    known.state = State.DONE
                else:
                    known.warn = None
            if bounce is not None:
                (one,) = bounce.recipients
                self.model.messages[bounce.envelope.id] = {1: Known("a", State.WAITING, one.due, one.expires, None)}
        self.model.forget()

    @rule(move=st.sampled_from([Move.HOLD, Move.RELEASE, Move.RETRY, Move.DROP]), hop=st.sampled_from(["", "a"]))
    def operate(self, move: Move, hop: str) -> None:
        moved, _ = selection.move(self.connection, self.now, Selection(hop=hop), move, "", 500.0, 1000, "")
        count = 0
        for _, one in self.model.each():
            if (one.state, move) in MOVES and one.hop in (hop, one.hop if not hop else ""):
                one.state = MOVES[one.state, move]
                count += 1
                if move in (Move.RELEASE, Move.RETRY):
                    one.due = self.now
                if move is Move.RELEASE:
                    one.crashes, one.expires = 0, max(one.expires, self.now + 500.0)
        assert len(moved) == count
        self.model.forget()

    @invariant()
    def the_rows_are_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = self.connection.exec_driver_sql(
            "SELECT message, number, hop, state, due, expires, warn, crashes, coalesce(token, '') FROM recipient"
        )
        found = {Key(row[0], row[1]): tuple(row[2:]) for row in rows}
        assert found == {
            key: (one.hop, one.state.value, one.due, one.expires, one.warn, one.crashes, one.token)
            for key, one in self.model.each()
        }
        for table, column in (("message", "id"), ("content", "message")):
            ids = self.connection.exec_driver_sql(f"SELECT DISTINCT {column} FROM {table}").scalars()
            assert set(ids) == set(self.model.messages)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, phases=set(Phase) - {Phase.explain}
)

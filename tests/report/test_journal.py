"""What the journal keeps, and that it never gets in the way."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.fact import Fact
from relay.report import journal as journal_module
from relay.report.journal import Journal, story
from tests.support.clock import JumpingClock

DAY = 86400.0


async def test_the_story_of_a_message_is_told_in_order(tmp_path: Path) -> None:
    clock = JumpingClock()
    journal = Journal(tmp_path / "j.db", DAY, clock, pytest.fail)
    await journal.open()
    facts = [Fact("accept.received", "m1", {"to": ["a@b.org"]}), Fact("forward.delivered", "m1", {"reply": "250 ok"})]
    journal.record(facts[0])
    clock.jump(2)
    journal.record(Fact("accept.received", "m2"))
    journal.record(facts[1])
    await journal.flush()
    assert [fact for _, fact in story(tmp_path / "j.db", "m1")] == facts
    assert [time - clock.time() for time, _ in story(tmp_path / "j.db", "m1")] == [-2, 0]
    await journal.close()


async def test_what_was_recorded_is_written_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), pytest.fail)
    await journal.open()
    journal.record(Fact("accept.received", "m1"))
    await journal.close()
    assert [fact.event for _, fact in story(tmp_path / "j.db", "m1")] == ["accept.received"]
    assert (tmp_path / "j.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("fact", [Fact("app.started"), Fact("forward.connected", "m1", {}, "debug")])
async def test_facts_about_nobody_and_debug_facts_are_not_kept(tmp_path: Path, fact: Fact) -> None:
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), pytest.fail)
    await journal.open()
    journal.record(fact)
    await journal.close()
    assert list(story(tmp_path / "j.db", fact.id)) == []


async def test_old_facts_go(tmp_path: Path) -> None:
    clock = JumpingClock()
    journal = Journal(tmp_path / "j.db", DAY, clock, pytest.fail)
    await journal.open()
    journal.record(Fact("accept.received", "old"))
    await journal.flush()
    clock.jump(2 * DAY)
    journal.record(Fact("accept.received", "new"))
    await journal.close()
    assert [len(list(story(tmp_path / "j.db", id))) for id in ("old", "new")] == [0, 1]


async def test_trouble_is_told_once_and_mail_goes_on(tmp_path: Path) -> None:
    told: list[Fact] = []
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), told.append)
    await journal.open()
    assert journal._database is not None
    journal._database.execute("DROP TABLE told")
    for _ in range(3):
        journal.record(Fact("accept.received", "m1"))
        await journal.flush()
    assert [fact.event for fact in told] == ["report.trouble"]
    await journal.close()


async def test_a_fact_that_is_no_json_is_told_of_and_what_comes_later_is_kept(tmp_path: Path) -> None:
    told: list[Fact] = []
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), told.append)
    await journal.open()
    journal.record(Fact("accept.received", "m1", {"wrong": {("no", "word"): 1}}))
    await journal.flush()
    assert [(fact.event, fact.values["dropped"]) for fact in told] == [("report.trouble", 1)]
    journal.record(Fact("accept.received", "m2"))
    await journal.close()
    assert [fact.event for _, fact in story(tmp_path / "j.db", "m2")] == ["accept.received"]


async def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_text("not a database at all, only some text that is long enough")
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), pytest.fail)
    with pytest.raises(ConfigError, match=r"j\.db: the journal cannot be opened"):
        await journal.open()
    await journal.close()


async def test_more_old_facts_than_go_at_once_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_SWEPT_AT_ONCE", 2)
    clock = JumpingClock()
    journal = Journal(tmp_path / "j.db", DAY, clock, pytest.fail)
    await journal.open()
    for number in range(5):
        journal.record(Fact("accept.received", f"old{number}"))
    await journal.flush()
    clock.jump(2 * DAY)
    journal.record(Fact("accept.received", "new"))
    await journal.close()
    assert [list(story(tmp_path / "j.db", f"old{number}")) for number in range(5)] == [[]] * 5
    assert len(list(story(tmp_path / "j.db", "new"))) == 1


async def test_what_several_workers_wrote_is_told_in_order(tmp_path: Path) -> None:
    clock = JumpingClock()
    journals = [Journal(tmp_path / "j.db", DAY, clock, pytest.fail) for _ in range(2)]
    for journal in journals:
        await journal.open()
    for number in range(4):
        journals[number % 2].record(Fact(f"queue.{number}", "m1", {"text": "\ud800"}))
        clock.jump(0.1)
    for journal in reversed(journals):
        await journal.close()
    assert [fact for _, fact in story(tmp_path / "j.db", "m1")] == [
        Fact(f"queue.{number}", "m1", {"text": "\ud800"}) for number in range(4)
    ]


async def test_a_new_file_is_opened_by_several_workers_at_once(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
        journals = [Journal(path, DAY, JumpingClock(), pytest.fail) for _ in range(8)]
        await asyncio.gather(*(journal.open() for journal in journals))
        for journal in journals:
            journal.record(Fact("accept.received", "m1"))
            await journal.close()
        assert len(list(story(path, "m1"))) == 8


async def test_a_journal_of_version_1_is_taken_over(tmp_path: Path) -> None:
    """As commit 212cf39 made it."""
    path = tmp_path / "j.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE fact (number INTEGER PRIMARY KEY, time REAL NOT NULL, id TEXT NOT NULL,"
            " event TEXT NOT NULL, level TEXT NOT NULL, facts TEXT NOT NULL);"
            "CREATE INDEX fact_by_id ON fact (id); CREATE INDEX fact_by_time ON fact (event, time);"
            "PRAGMA user_version=1;"
        )
        old = [(1.5, "m1", "accept.received", "info", '{"to":["ä"],"n":1.5}'), (2.5, "m1", "x.y", "error", "{}")]
        database.executemany("INSERT INTO fact (time, id, event, level, facts) VALUES (?, ?, ?, ?, ?)", old)
        database.commit()
    journals = [Journal(path, DAY, JumpingClock(), pytest.fail, sweeps=False) for _ in range(2)]
    await asyncio.gather(*(journal.open() for journal in journals))
    journals[0].record(Fact("a.b", "m1"))
    for journal in journals:
        await journal.close()
    assert [*story(path, "m1")][:2] == [
        (1.5, Fact("accept.received", "m1", {"to": ["ä"], "n": 1.5})),
        (2.5, Fact("x.y", "m1", {}, "error")),
    ]
    assert [fact.event for _, fact in story(path, "m1")] == ["accept.received", "x.y", "a.b"]


async def test_a_journal_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "j.db")) as database:
        database.execute("PRAGMA user_version=9")
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), pytest.fail)
    with pytest.raises(ConfigError, match="it has schema 9, this relay knows 2"):
        await journal.open()
    await journal.close()


async def test_a_kind_of_fact_is_found_by_time(tmp_path: Path) -> None:
    """Aggregate reports will ask so."""
    clock = JumpingClock()
    journal = Journal(tmp_path / "j.db", DAY, clock, pytest.fail)
    await journal.open()
    for id in ("m1", "m2", "m3"):
        journal.record(Fact("accept.received", id))
        journal.record(Fact(journal_module.EXPLAINED, id, {"n": id}, "debug"))
        await journal.flush()
        clock.jump(10)
    await journal.close()
    with closing(sqlite3.connect(tmp_path / "j.db")) as database:
        found = database.execute(
            "SELECT told.id, json_extract(one.value, '$[3].n') FROM told, json_each(told.facts) AS one"
            " WHERE told.time BETWEEN ? AND ? AND json_extract(one.value, '$[1]') = ?",
            (clock.time() - 21, clock.time() - 9, journal_module.EXPLAINED),
        ).fetchall()
    assert found == [("m2", "m2"), ("m3", "m3")]

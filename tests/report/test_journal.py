"""What the journal keeps, and that it never gets in the way."""

from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.fact import Fact
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
    journal._database.execute("DROP TABLE fact")
    for _ in range(3):
        journal.record(Fact("accept.received", "m1"))
        await journal.flush()
    assert [fact.event for fact in told] == ["report.trouble"]
    await journal.close()


async def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_text("not a database at all, only some text that is long enough")
    journal = Journal(tmp_path / "j.db", DAY, JumpingClock(), pytest.fail)
    with pytest.raises(ConfigError, match=r"j\.db: the journal cannot be opened"):
        await journal.open()
    await journal.close()

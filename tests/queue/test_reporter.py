"""Reports on a real queue: each of them once, signed, routed, and never about a report."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.address import Address
from relay.authenticate.dkim import verify
from relay.capabilities import Capabilities
from relay.config.models import Algorithm, Config, Domain
from relay.config.queue import Unverified
from relay.decide.backscatter import may_report
from relay.edit.key import SigningKey
from relay.edit.sign import Signer
from relay.envelope import Envelope, Notify
from relay.errors import CannotSign
from relay.fact import Fact
from relay.message import Message
from relay.outcome import Outcome, Result
from relay.publish.keys import dns_name, dns_record, new_key
from relay.queue.arrival import arriving
from relay.queue.engine import NoRoom, NotKept, Unavailable
from relay.queue.entry import Action, Delivery, Entry, Queued, Recipient, Selection
from relay.queue.reporter import AGAIN, NO_ROUTE, UNROUTED, Reporter
from relay.queue.schedule import Schedule, settle
from relay.queue.sqlite import SqliteEngine
from relay.queue.states import Move, State
from relay.queue.store import Store
from relay.reply import Reply
from relay.resolver import Resolver
from relay.verdict import DkimResult
from tests.support.clock import JumpingClock
from tests.support.dkim_verifiers import dkimpy
from tests.support.dns import dns_server
from tests.support.reports import MAIL, Read, read
from tests.support.reports import queued as about
from tests.support.reports import recipient as reported
from tests.support.verdicts import verdicts

HOST = "mx.example.org"
ALL = Selection()
UTF8 = Capabilities(eight_bit=True, smtputf8=True)


class Queue:
    """A store in a file, its clock, its facts, and a reporter for it. Each of the world's answers can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = JumpingClock()
        self.facts: list[Fact] = []
        self.config = config()
        self.hop: str | None = "out"
        self.takes = UTF8
        self.routed: list[tuple[Envelope, Address]] = []
        self.sign: Callable[[Message, Address | None, str], Any] = unsigned
        self.store = self.another_store()

    def another_store(self, kind: type[Store] = Store) -> Store:
        engine = SqliteEngine(self.path / "queue.db", self.clock)
        return kind(engine, "test", 60.0, 5, self.clock, self.facts.append)

    def reporter(self, store: Store | None = None) -> Reporter:
        def route(envelope: Envelope, to: Address) -> str | None:
            self.routed.append((envelope, to))
            return self.hop

        sign = lambda message, author, id: self.sign(message, author, id)  # noqa: E731
        return Reporter(
            store or self.store, lambda: self.config, sign, route, lambda hop: self.takes, self.clock, self.facts.append
        )

    async def keep(
        self, *recipients: Recipient, mail: bytes = MAIL, id: str = "0kqm0e2q5h7j4xyz", **changes: Any
    ) -> str:
        is_reportable = changes.pop("is_reportable", True)
        envelope = replace(about(*recipients, **changes).envelope, id=id)
        entry = Entry(envelope, Message.parse(mail), self.clock.now, is_reportable, recipients)
        await self.store.keep(entry, self.clock.now + 60)
        return id

    async def all(self) -> tuple[Queued, ...]:
        return await self.store.select(ALL)

    async def reports(self) -> list[Queued]:
        return [one for one in await self.all() if one.envelope.reverse_path is None]

    async def read(self, report: Queued) -> Read:
        content = await self.store.content(report.envelope.id)
        assert content is not None
        return read(bytes(content))

    def events(self, *names: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.event in names]


async def unsigned(message: Message, author: Address | None, id: str) -> Message:
    return message


def config(**tables: Any) -> Config:
    listener = {"in": {"role": "submission", "port": 2525, "allow": ["10.0.0.0/8"], "senders": ["*"]}}
    hop = {"out": {"host": ["mail.example.net"]}}
    return Config.model_validate({"hostname": HOST, "listener": listener, "hop": hop, **tables})


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    made = Queue(tmp_path)
    await made.store.open(is_supervisor=True)
    yield made
    await made.store.close()


# --- a report --------------------------------------------------------------------------------------


async def test_one_report_for_all_that_failed(queue: Queue) -> None:
    await queue.keep(reported("bob@example.net"), reported("carol@example.net"), reported("dave@example.com"))
    assert not await queue.reporter().report_due()
    (only,) = await queue.all()
    assert only.envelope.reverse_path is None, "the mail is gone, its report is there"
    assert only.envelope.recipients == [Address("ann", "example.org")]
    assert not only.is_reportable
    assert [one["Final-Recipient"] for one in (await queue.read(only)).recipients] == [
        "rfc822; bob@example.net", "rfc822; carol@example.net", "rfc822; dave@example.com",
    ]  # fmt: skip
    (fact,) = queue.events("queue.reported")
    assert fact.id == "0kqm0e2q5h7j4xyz"
    assert fact.values == {
        "report": only.envelope.id,
        "hop": "out",
        "sender": "ann@example.org",
        "action": "failed",
        "to": ["bob@example.net", "carol@example.net", "dave@example.com"],
    }


async def test_how_a_report_waits(queue: Queue) -> None:
    """RFC 3461 §6.1: from <>, no RET; given up earlier than other mail."""
    queue.config = config(queue={"give_up_bounce": "2 h"})
    await queue.keep(reported())
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    (one,) = report.recipients
    assert (one.state, one.hop, one.due, one.expires) == (State.WAITING, "out", queue.clock.now, queue.clock.now + 7200)
    assert (one.notify, one.warn, one.attempts) == (Notify(), None, 0)
    envelope = report.envelope
    assert (envelope.ret, envelope.envid, envelope.smtputf8, envelope.eight_bit) == ("", "", False, False)
    assert len(await queue.store.claim("out", 10)) == 1, "it is delivered like any other mail"


async def test_what_was_reported_is_not_reported_again(queue: Queue) -> None:
    await queue.keep(reported())
    for _ in range(3):
        await queue.reporter().report_due()
    assert len(await queue.reports()) == 1


async def test_a_part_of_the_recipients(queue: Queue) -> None:
    await queue.keep(reported("bob@example.net"), Recipient(Address("carol", "example.net"), "out", expires=2e9))
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert [one["Final-Recipient"] for one in (await queue.read(report)).recipients] == ["rfc822; bob@example.net"]
    left = await queue.store.find("0kqm0e2q5h7j4xyz")
    assert left is not None
    assert [(one.address.local, one.state) for one in left.recipients] == [
        ("bob", State.DONE),
        ("carol", State.WAITING),
    ]


async def test_the_failed_set_is_waited_for(queue: Queue) -> None:
    """While one is being tried nobody is reported: his failure goes into the same report."""
    await queue.keep(reported("bob@example.net"), Recipient(Address("carol", "example.net"), "out", expires=2e9))
    (delivery,) = await queue.store.claim("out", 10)
    await queue.reporter().report_due()
    assert await queue.reports() == []
    await fail(queue, delivery)
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert len((await queue.read(report)).recipients) == 2


async def fail(queue: Queue, delivery: Delivery, said: str = "5.1.1") -> None:
    """Settle a delivery as the worker does when its hop said 550."""
    schedule = Schedule.of(queue.config.queue, queue.config.bounce)
    outcomes = [
        Outcome(one.address, Result.PERMANENT, Reply(550, said.partition(".")[2], "no"), "out", "mx.example.net")
        for one in delivery.queued.recipients
    ]
    settlements = [
        settle(delivery.queued, one, outcome, queue.clock.now, 0.5, schedule, offers_dsn=False)
        for one, outcome in zip(delivery.queued.recipients, outcomes, strict=True)
    ]
    await queue.store.settle(delivery, settlements)


async def test_a_delay_is_told_once(queue: Queue) -> None:
    """And a failure after it in a report of its own."""
    warn = queue.clock.now + 100
    await queue.keep(
        Recipient(Address("bob", "example.net"), "out", warn=warn, due=2e9, expires=2e9, reply="450 4.2.1 busy")
    )
    await queue.reporter().report_due()
    assert await queue.reports() == []
    queue.clock.jump(100)
    for _ in range(2):
        await queue.reporter().report_due()
    (report,) = await queue.reports()
    (told,) = (await queue.read(report)).recipients
    assert (told["Action"], told["Status"]) == ("delayed", "4.2.1")
    left = await queue.store.find("0kqm0e2q5h7j4xyz")
    assert left is not None
    assert [(one.state, one.warn) for one in left.recipients] == [(State.WAITING, None)]
    await queue.store.move(Selection(ids=["0kqm0e2q5h7j4xyz"]), Move.RETRY)
    (delivery,) = [one for one in await queue.store.claim("out", 10) if one.queued.envelope.reverse_path]
    await fail(queue, delivery)
    await queue.reporter().report_due()
    assert [fact.values["action"] for fact in queue.events("queue.reported")] == ["delayed", "failed"]


async def test_a_success_that_the_hop_will_not_report(queue: Queue) -> None:
    await queue.keep(reported(action=Action.RELAYED, on="SUCCESS"))
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert [one["Action"] for one in (await queue.read(report)).recipients] == ["relayed"]


async def test_who_does_not_want_to_hear_is_done(queue: Queue) -> None:
    """NOTIFY=NEVER in a state that it should not be in: the log says so, and nobody else."""
    await queue.keep(reported(on="NEVER"))
    await queue.reporter().report_due()
    assert await queue.all() == ()
    (fact,) = queue.events("queue.unreported")
    assert (fact.values, fact.level) == ({"to": ["bob@example.net"]}, "warning")


async def test_a_warning_that_nobody_wants_is_none(queue: Queue) -> None:
    await queue.keep(reported(action=Action.DELAYED, on="FAILURE"))
    queue.clock.now = 1.9e9
    await queue.reporter().report_due()
    assert await queue.reports() == []
    assert await queue.store.reportable(10) == ()
    assert queue.events("queue.unreported") == []


@pytest.mark.parametrize("content", [b" broken: first line\r\n\r\n", b"a: b\r\nno field\r\n"])
async def test_mail_that_cannot_be_read_is_reported_all_the_same(queue: Queue, content: bytes) -> None:
    envelope = about(reported()).envelope
    entry = Entry(envelope, Message(b"", b"", memoryview(content)), queue.clock.now, True, (reported(),))
    await queue.store.keep(entry, queue.clock.now + 60)
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert (await queue.read(report)).kind == ""


async def test_utf8(queue: Queue) -> None:
    await queue.keep(reported("büro@bücher.example"), sender="ännchen@example.org", smtputf8=True)
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert (report.envelope.smtputf8, report.envelope.eight_bit) == (True, True)
    found = await queue.read(report)
    assert found.status_kind == "message/global-delivery-status"
    assert found.header["To"].addresses[0].addr_spec == "ännchen@example.org"


async def test_what_the_hop_takes_is_asked_of_the_hop(queue: Queue) -> None:
    queue.takes = Capabilities()
    await queue.keep(reported("büro@bücher.example"), smtputf8=True)
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert (report.envelope.smtputf8, report.envelope.eight_bit) == (False, False)
    assert (await queue.read(report)).status_kind == "message/delivery-status"


# --- where it goes -----------------------------------------------------------------------------------


async def test_no_route_and_it_is_held(queue: Queue) -> None:
    queue.hop = None
    await queue.keep(reported())
    await queue.reporter().report_due()
    (report,) = await queue.all()
    (one,) = report.recipients
    assert (one.state, one.hop, one.cause) == (State.HELD, UNROUTED, NO_ROUTE)
    (fact,) = queue.events("queue.held")
    assert (fact.id, fact.level) == (report.envelope.id, "warning")
    assert fact.values == {"to": ["ann@example.org"], "cause": NO_ROUTE}
    assert (await queue.read(report)).recipients[0]["Action"] == "failed"


async def test_the_routes_see_a_mail_of_ours(queue: Queue) -> None:
    """From <>, of no listener: a route for one listener's mail is not for reports."""
    await queue.keep(reported())
    await queue.reporter().report_due()
    ((envelope, to),) = queue.routed
    assert (envelope.reverse_path, envelope.client.listener, envelope.client.login) == (None, "", None)
    assert to == Address("ann", "example.org")


# --- signatures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mail", [MAIL, MAIL.replace(b"At noon?", b"Um zw\xc3\xb6lf?")], ids=["7bit", "8bit"])
async def test_it_is_signed(queue: Queue, tmp_path: Path, mail: bytes) -> None:
    keys = []
    for algorithm in Algorithm:
        file = tmp_path / algorithm
        new_key(HOST, algorithm[0], algorithm, file)
        keys.append(SigningKey.load(HOST, algorithm[0], algorithm, file))
    table = {
        one.selector: {"selector": one.selector, "file": tmp_path / a, "algorithm": a}
        for one, a in zip(keys, Algorithm, strict=True)
    }
    domain = Domain.model_validate({"name": HOST, "key": table})
    queue.sign = Signer({"ours": domain}, queue.clock, queue.facts.append).sign
    await queue.keep(reported(), mail=mail)
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    content = bytes(await queue.store.content(report.envelope.id) or b"")
    assert (await queue.read(report)).returned == mail
    records = {dns_name(key): dns_record(key) for key in keys}
    assert dkimpy(content, records) == [True, True]
    async with dns_server({name.rstrip("."): [{"TXT": text}] for name, text in records.items()}) as server:
        resolver = Resolver([server.nameserver], timeout=5.0)
        found = await verify(content, resolver, time=queue.clock.now)
        await resolver.close()
    assert [(one.result, one.domain) for one in found] == [(DkimResult.PASS, HOST)] * 2


async def test_who_signs_is_the_author(queue: Queue) -> None:
    seen = []

    async def sign(message: Message, author: Address | None, id: str) -> Message:
        seen.append((author, id))
        return message

    queue.sign, queue.config = sign, config(bounce={"sender": "ops@example.org"})
    await queue.keep(reported())
    await queue.reporter().report_due()
    (report,) = await queue.reports()
    assert seen == [(Address("ops", "example.org"), report.envelope.id)]


# --- never about a report, never to a stranger -----------------------------------------------------------


async def test_a_report_that_fails_is_held(queue: Queue) -> None:
    """R12: a report to a sender who refuses it makes no second one."""
    await queue.keep(reported())
    await queue.reporter().report_due()
    (delivery,) = await queue.store.claim("out", 10)
    await fail(queue, delivery)
    await queue.reporter().report_due()
    (report,) = await queue.all()
    assert [one.state for one in report.recipients] == [State.HELD]
    assert len(queue.events("queue.reported")) == 1


@pytest.mark.parametrize(
    ("unverified", "state", "told"), [("hold", State.HELD, 0), ("send", None, 1), ("drop", None, 0)]
)
async def test_mail_of_a_stranger_whose_domain_did_not_pass(
    queue: Queue, unverified: str, state: State | None, told: int
) -> None:
    """R13. bounce.unverified: held, reported all the same, or gone."""
    queue.config = config(bounce={"unverified": unverified})
    sender = Address("ann", "example.org")
    verified = may_report(sender, verdicts(spf="fail"), Unverified(unverified))
    one = about(Recipient(Address("bob", "example.net"), "out"))
    entry = Entry(one.envelope, Message.parse(MAIL), queue.clock.now, verified, one.recipients)
    schedule = Schedule.of(queue.config.queue, queue.config.bounce)
    (delivery,) = await queue.store.keep(arriving(entry, schedule), queue.clock.now + 60, claim=["out"])
    await fail(queue, delivery)
    await queue.reporter().report_due()
    assert len(await queue.reports()) == told
    left = [one for one in await queue.all() if one.envelope.reverse_path]
    assert [each.state for one in left for each in one.recipients] == ([state] if state else [])


async def test_not_even_where_it_should_not_come_to(queue: Queue) -> None:
    """Mail that waits for a report though nobody may be told: the last door is shut too."""
    await queue.keep(reported(), is_reportable=False)
    await queue.keep(reported(), sender=None, id="0kqm0e2q5h7j4xyy")
    await queue.reporter().report_due()
    assert await queue.all() == ()
    assert {fact.id for fact in queue.events("queue.unreported")} == {"0kqm0e2q5h7j4xyz", "0kqm0e2q5h7j4xyy"}


# --- trouble and crashes -----------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone: nothing behind it runs."""


class BeforeCommit(Store):
    async def report(self, queued: Queued, bounce: Entry | None) -> bool:
        raise Crash


class BehindCommit(Store):
    async def report(self, queued: Queued, bounce: Entry | None) -> bool:
        await super().report(queued, bounce)
        raise Crash


@pytest.mark.parametrize(("kind", "there"), [(BeforeCommit, 0), (BehindCommit, 1)])
async def test_a_crash_leaves_one_report(queue: Queue, kind: type[Store], there: int) -> None:
    await queue.keep(reported())
    await queue.store.close()
    crashing = queue.another_store(kind)
    await crashing.open(is_supervisor=False)
    with pytest.raises(Crash):
        await queue.reporter(crashing).report_due()
    await crashing.close()
    queue.store = queue.another_store()
    await queue.store.open(is_supervisor=True)
    assert len(await queue.reports()) == there
    await queue.reporter().report_due()
    assert len(await queue.reports()) == 1
    assert len(await queue.all()) == 1, "and the mail is done"


async def test_killed_amid_reports_it_goes_on_where_it_was(queue: Queue) -> None:
    """kill -9 before a report is committed, and behind one: each mail has one report."""
    ids = [f"0kqm0e2q5h7j4{number:03}" for number in range(30)]
    for id in ids:
        await queue.keep(reported(), id=id)
    await queue.store.close()
    for step, times, there in (("building", 6, 5), ("queue.reported", 8, 13)):
        await kill_at(queue.path, step, times)
        queue.store = queue.another_store()
        await queue.store.open(is_supervisor=True)
        assert len(await queue.reports()) == there
        await queue.store.close()
    queue.store = queue.another_store()
    await queue.store.open(is_supervisor=True)
    await queue.reporter().report_due()
    found = [await queue.read(report) for report in await queue.reports()]
    assert sorted(one["Final-Log-ID"] for report in found for one in report.recipients) == ids
    assert len(await queue.all()) == len(ids)


async def kill_at(path: Path, step: str, times: int) -> None:
    """Run `report_step_by_step` in a process, and kill it when it says `step` for that time."""
    command = [sys.executable, "-m", "tests.queue.test_reporter", str(path)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while times:
                said = (await process.stdout.readline()).decode()
                assert said, "it ended by itself"
                times -= said == f"{step}\n"
                if times:
                    process.stdin.write(b"\n")
    finally:
        process.kill()
        await process.communicate()


async def test_two_relays_make_one_report(queue: Queue) -> None:
    """Both build it: who is second finds that it is told."""
    both = asyncio.Barrier(2)

    async def sign(message: Message, author: Address | None, id: str) -> Message:
        await both.wait()
        return message

    queue.sign = sign
    await queue.keep(reported())
    await asyncio.gather(queue.reporter().report_due(), queue.reporter().report_due())
    assert len(await queue.reports()) == 1
    assert len(queue.events("queue.reported")) == 1


async def test_an_operator_was_faster(queue: Queue) -> None:
    async def sign(message: Message, author: Address | None, id: str) -> Message:
        await queue.store.move(ALL, Move.DROP)
        return message

    queue.sign = sign
    await queue.keep(reported())
    await queue.reporter().report_due()
    assert await queue.all() == ()
    assert queue.events("queue.reported") == []


async def test_without_a_key_it_stays_to_be_reported(queue: Queue) -> None:
    async def sign(message: Message, author: Address | None, id: str) -> Message:
        raise CannotSign("no usable key for mx.example.org")

    queue.sign = sign
    await queue.keep(reported())
    reporter = queue.reporter()
    await reporter.report_due()
    await reporter.report_due()
    (fact,) = queue.events("queue.report_trouble")
    assert (fact.id, fact.level) == ("0kqm0e2q5h7j4xyz", "error")
    assert fact.values == {"cause": "CannotSign: no usable key for mx.example.org"}
    assert [one.recipients[0].state for one in await queue.all()] == [State.REPORT]
    queue.sign = unsigned
    await reporter.report_due()
    assert await queue.reports() == [], "it is tried again, but not at once"
    queue.clock.jump(AGAIN)
    await reporter.report_due()
    assert len(await queue.reports()) == 1


async def test_what_cannot_be_reported_holds_nobody_up(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them is our own mistake, and they are taken two at a time."""

    async def sign(message: Message, author: Address | None, id: str) -> Message:
        if b"poison" in bytes(message):
            raise ZeroDivisionError("a bug")
        return message

    monkeypatch.setattr("relay.queue.reporter.AT_ONCE", 2)
    queue.sign = sign
    for number in range(6):
        to = "poison@example.net" if number < 3 else "bob@example.net"
        await queue.keep(reported(to), id=f"0kqm0e2q5h7j4{number:03}")
    reporter = queue.reporter()
    while await reporter.report_due():
        pass
    assert len(await queue.reports()) == 3
    facts = queue.events("queue.report_trouble")
    assert [fact.id for fact in facts] == ["0kqm0e2q5h7j4000", "0kqm0e2q5h7j4001", "0kqm0e2q5h7j4002"]
    assert "ZeroDivisionError" in str(facts[0].values["traceback"])


@pytest.mark.parametrize(("trouble", "tried"), [(Unavailable("locked"), 1), (NoRoom("full"), 2)])
async def test_when_the_database_as_a_whole_is_in_trouble_the_others_wait(
    queue: Queue, trouble: NotKept, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk may have room for the next one."""
    asked = []

    async def report(queued: Queued, bounce: Entry | None) -> bool:
        asked.append(queued)
        raise trouble

    monkeypatch.setattr(queue.store, "report", report)
    await queue.keep(reported(), id="0kqm0e2q5h7j4000")
    await queue.keep(reported(), id="0kqm0e2q5h7j4001")
    if isinstance(trouble, Unavailable):
        with pytest.raises(Unavailable):
            await queue.reporter().report_due()
    else:
        await queue.reporter().report_due()
    assert len(asked) == tried


async def test_it_runs_until_it_is_stopped(queue: Queue) -> None:
    reporter = queue.reporter()
    reporter.start()
    try:
        for number in range(3):
            await queue.keep(reported(), id=f"0kqm0e2q5h7j400{number}")
            reporter.wake()
            async with asyncio.timeout(30):
                while len(queue.events("queue.reported")) <= number:
                    await asyncio.sleep(0.01)
    finally:
        await reporter.stop()
    assert len(await queue.reports()) == 3


async def test_a_storm_of_failures_is_looked_at_once(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them wakes it, and each look costs a query."""
    looked = 0
    reportable = queue.store.reportable

    async def counted(limit: int) -> tuple[Queued, ...]:
        nonlocal looked
        looked += 1
        return await reportable(limit)

    monkeypatch.setattr(queue.store, "reportable", counted)
    monkeypatch.setattr("relay.queue.reporter.REST", 3600.0)
    reporter = queue.reporter()
    await queue.keep(reported())
    reporter.start()
    async with asyncio.timeout(30):
        while not queue.events("queue.reported"):
            await asyncio.sleep(0.01)
    for number in range(20):
        await queue.keep(reported(), id=f"0kqm0e2q5h7j40{number:02}")
        reporter.wake()
    await reporter.stop()
    assert looked == 1


async def test_trouble_is_told_and_does_not_end_it(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def reportable(limit: int) -> tuple[Queued, ...]:
        asked.set()
        raise Unavailable("gone")

    monkeypatch.setattr(queue.store, "reportable", reportable)
    reporter = queue.reporter()
    reporter.start()
    async with asyncio.timeout(30):
        await asked.wait()
    for _ in range(20):  # it does not ask again whenever a mail fails
        reporter.wake()
        await asyncio.sleep(0)
    await reporter.stop()
    (fact,) = queue.events("queue.report_trouble")
    assert (fact.values, fact.level) == ({"cause": "Unavailable: gone"}, "error")


# --- a process of its own, to be killed ------------------------------------------------------------------


async def report_step_by_step(path: Path) -> None:
    """Report what is due in the queue in `path`, and wait for a line before each step."""

    def step(name: str) -> None:
        print(name, flush=True)
        sys.stdin.readline()

    async def sign(message: Message, author: Address | None, id: str) -> Message:
        step("building")
        return message

    queue = Queue(path)
    await queue.store.open(is_supervisor=True)
    reporter = Reporter(
        queue.store,
        lambda: queue.config,
        sign,
        lambda *_: "out",
        lambda hop: UTF8,
        queue.clock,
        lambda fact: step(fact.event),
    )
    await reporter.report_due()


if __name__ == "__main__":
    asyncio.run(report_step_by_step(Path(sys.argv[1])))

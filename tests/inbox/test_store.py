"""The inbox keeps what it says 250 to, byte for byte, and nothing that is wrong with its disk is permanent."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay import reply
from relay.address import Address
from relay.clock import SystemClock
from relay.envelope import Tls
from relay.errors import ConfigError
from relay.fact import Fact
from relay.inbox import store
from relay.inbox.store import Inbox
from relay.message import CHUNK, Message
from relay.outcome import Result
from tests.support.delivery import PLAIN, deliver, make_envelope
from tests.support.peers import require

HEADER = b"Subject: x\r\n\r\n"


def make_inbox(path: Path, keep: int = 1000) -> Inbox:
    return Inbox(path, "inbox", keep, SystemClock(), lambda fact: None)


async def limit_pages(inbox: Inbox, pages: int) -> None:
    await inbox._in_thread(lambda: inbox._connected().execute(f"PRAGMA max_page_count = {pages}").fetchall())


# --- what goes in comes out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        b"Subject: no body\r\n",
        b"\r\nno header\r\n",
        b"no header, no blank line\r\n",
        b"",
        HEADER + bytes(range(1, 256)),
        HEADER + b"\x00" * 10,
        HEADER + b"." * (CHUNK * 3 + 1),
    ],
    ids=["plain", "no body", "no header", "neither", "empty", "8-bit", "NUL", "many pieces"],
)
async def test_the_source_is_what_was_delivered(inbox: Inbox, content: bytes) -> None:
    envelope = make_envelope()
    await deliver(inbox, content, envelope)
    assert await inbox.source(envelope.id) == bytes(Message.parse(content))
    found = await inbox.get(envelope.id)
    assert found is not None
    assert found.size == len(bytes(Message.parse(content)))


async def test_the_envelope_is_kept_beside_it(inbox: Inbox) -> None:
    tls = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
    envelope = make_envelope("bob@example.net", "eve@example.com", login="ann", tls=tls, helo="laptop")
    content = (
        b"From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\r\nSubject: a\r\n b\r\nDate: today\r\nMessage-ID: <1@x>\r\n\r\n"
    )
    before = time.time()
    await deliver(inbox, content, envelope)
    found = await inbox.get(envelope.id)
    assert found is not None
    assert before <= found.time <= time.time()
    assert (found.listener, found.ip, found.helo, found.tls, found.login, found.hop) == (
        ("capture", "127.0.0.1", "laptop", "TLSv1.3", "ann", "inbox")
    )
    assert found.reverse_path == "ann@example.org"
    assert found.recipients == ("bob@example.net", "eve@example.com")
    assert (found.author, found.subject, found.date, found.message_id) == (
        ("Jörg <j@example.org>", "a b", "today", "<1@x>")
    )


async def test_the_null_reverse_path_is_no_empty_address(inbox: Inbox) -> None:
    envelope = make_envelope()
    envelope.reverse_path = None
    await deliver(inbox, PLAIN, envelope)
    found = await inbox.get(envelope.id)
    assert found is not None
    assert found.reverse_path is None


async def test_every_recipient_gets_its_250_with_the_id(inbox: Inbox, facts: list[Fact]) -> None:
    envelope = make_envelope("bob@example.net", "eve@example.com")
    outcomes = await deliver(inbox, PLAIN, envelope)
    assert [str(one.recipient) for one in outcomes] == ["bob@example.net", "eve@example.com"]
    assert {(one.result, one.reply, one.hop) for one in outcomes} == {
        (Result.DELIVERED, reply.accepted(envelope.id), "inbox")
    }
    assert [(fact.event, fact.id, fact.values["hop"]) for fact in facts] == [("inbox.stored", envelope.id, "inbox")]


async def test_hostile_text_is_data(inbox: Inbox) -> None:
    """I6: values are bound, never written into the SQL."""
    envelope = make_envelope(login="'); DROP TABLE message; --")
    envelope.reverse_path = Address('"x\'/**/UNION/**/SELECT--"', "example.org")
    await deliver(inbox, PLAIN, envelope)
    found = await inbox.get(envelope.id)
    assert found is not None
    assert found.login == "'); DROP TABLE message; --"
    assert await inbox.get("' OR 1=1 --") is None
    assert await inbox.delete(["' OR 1=1 --"]) == 0


# --- 250 means safe ------------------------------------------------------------------------------

DELIVER_ONE = """
import asyncio, os, sys
from pathlib import Path
from relay.clock import SystemClock
from relay.inbox.store import Inbox
from tests.support.delivery import deliver, make_envelope

async def main():
    inbox = Inbox(Path(sys.argv[1]), "inbox", 1000, SystemClock(), lambda fact: None)
    await inbox.open()
    os.write(1, b"OPEN\\n")
    for _ in range(20):
        envelope = make_envelope()
        for outcome in await deliver(inbox, envelope=envelope):
            os.write(1, str(outcome.reply).encode() + b"\\n")
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_what_got_250_is_there_after_a_kill(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", DELIVER_ONE, tmp_path / "inbox.db"], capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    told = [line.split()[-1] for line in ended.stdout.decode().splitlines()[1:]]
    inbox = make_inbox(tmp_path / "inbox.db")
    await inbox.open()
    assert [one.id for one in await inbox.list()] == told[::-1]
    assert len(told) == 20
    await inbox.close()


def test_each_250_follows_a_sync(tmp_path: Path) -> None:
    """Seen from the kernel: between two answers of a client that waits there is a sync of the WAL."""
    require("strace", "strace")
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        trace,
        "-e",
        "trace=fsync,fdatasync,write",
        sys.executable,
        "-c",
        DELIVER_ONE,
    ]
    subprocess.run([*command, tmp_path / "inbox.db"], capture_output=True, timeout=100)
    calls = trace.read_text().splitlines()
    if not calls:
        pytest.skip("strace may not trace here (a container without SYS_PTRACE)")
    answers = [
        number for number, call in enumerate(calls) if "write(1" in call and ('"250 ' in call or '"OPEN' in call)
    ]
    assert len(answers) == 21
    for before, after in itertools.pairwise(answers):
        assert any("sync(" in call and "inbox.db-wal" in call for call in calls[before:after])


def commits(wal: Path) -> int:
    """Transactions in a write-ahead log: frames that give the size of the database (SQLite file format §4.1)."""
    content = wal.read_bytes()
    page = struct.unpack(">I", content[8:12])[0]
    frames = range(32, len(content), 24 + page)
    return sum(struct.unpack(">I", content[at + 4 : at + 8])[0] > 0 for at in frames)


async def test_deliveries_that_wait_together_cost_one_commit(inbox: Inbox) -> None:
    outcomes = await asyncio.gather(*(deliver(inbox) for _ in range(50)))
    assert all(one[0].result is Result.DELIVERED for one in outcomes)
    assert len(await inbox.list()) == 50
    assert commits(inbox.path.with_name("inbox.db-wal")) == 1


async def test_a_delivery_cancelled_before_its_commit_is_not_kept(inbox: Inbox) -> None:
    other = make_envelope()
    given_up = asyncio.create_task(deliver(inbox))
    staying = asyncio.create_task(deliver(inbox, envelope=other))
    asyncio.get_running_loop().call_soon(given_up.cancel)
    assert (await staying)[0].result is Result.DELIVERED
    assert given_up.cancelled()
    assert [one.id for one in await inbox.list()] == [other.id]


async def test_close_finishes_what_was_handed_over(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "inbox.db")
    await inbox.open()
    deliveries = [asyncio.create_task(deliver(inbox)) for _ in range(10)]
    await asyncio.sleep(0)
    await inbox.close()
    assert [(await one)[0].result for one in deliveries] == [Result.DELIVERED] * 10
    assert [path.name for path in tmp_path.iterdir()] == ["inbox.db"]  # the WAL is folded in


async def test_a_large_message_is_not_copied_whole(tmp_path: Path) -> None:
    script = """
import asyncio, re, sys
from pathlib import Path
from relay.clock import SystemClock
from relay.inbox.store import Inbox
from tests.support.delivery import deliver

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

async def main():
    inbox = Inbox(Path(sys.argv[1]), "inbox", 1000, SystemClock(), lambda fact: None)
    await inbox.open()
    await deliver(inbox)
    content = b"Subject: x\\r\\n\\r\\n" + b"." * 40_000_000
    import tests.support.delivery as delivery
    message = delivery.Message.parse(content)
    envelope = delivery.make_envelope()
    before = peak()
    outcomes = await inbox.deliver(envelope, message, envelope.recipients, 1e12)
    print(outcomes[0].result, peak() - before)
    await inbox.close()

asyncio.run(main())
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "inbox.db"], capture_output=True, timeout=60)
    result, grown = ended.stdout.decode().split()
    assert result == "delivered"
    assert int(grown) < 40_000_000 / 2


# --- trouble is temporary ------------------------------------------------------------------------


async def test_a_full_disk_is_452_and_heals(inbox: Inbox, facts: list[Fact]) -> None:
    await limit_pages(inbox, 10)
    envelope = make_envelope()
    (outcome,) = await deliver(inbox, HEADER + b"." * 100_000, envelope)
    assert (outcome.result, outcome.reply.code, outcome.reply.enhanced) == (Result.TEMPORARY, 452, "4.3.1")
    assert facts[-1].event == "inbox.trouble"
    assert facts[-1].level == "error"
    assert await inbox.list() == ()
    await limit_pages(inbox, 100_000)
    (outcome,) = await deliver(inbox, HEADER + b"." * 100_000, envelope)
    assert outcome.result is Result.DELIVERED


async def test_a_message_that_does_not_fit_does_not_hold_up_its_neighbours(inbox: Inbox) -> None:
    await limit_pages(inbox, 30)
    large, small = make_envelope(), make_envelope()
    first, second = await asyncio.gather(deliver(inbox, HEADER + b"." * 500_000, large), deliver(inbox, PLAIN, small))
    assert (first[0].reply, second[0].reply) == (reply.DISK_FULL, reply.accepted(small.id))
    assert [one.id for one in await inbox.list()] == [small.id]


async def test_a_limit_on_file_sizes_is_452(tmp_path: Path) -> None:
    script = """
import asyncio, resource, sys
from pathlib import Path
from relay.clock import SystemClock
from relay.inbox.store import Inbox
from tests.support.delivery import deliver

async def main():
    inbox = Inbox(Path(sys.argv[1]), "inbox", 1000, SystemClock(), lambda fact: None)
    await inbox.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    print((await deliver(inbox, b"Subject: x\\r\\n\\r\\n" + b"." * 1_000_000))[0].reply)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print((await deliver(inbox, b"Subject: x\\r\\n\\r\\n" + b"." * 1_000_000))[0].result)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "inbox.db"], capture_output=True, timeout=60)
    assert ended.stdout.decode().splitlines() == [str(reply.DISK_FULL), "delivered"], ended.stderr


async def test_a_locked_file_is_451_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY", 0.05)
    inbox = make_inbox(tmp_path / "inbox.db")
    await inbox.open()
    other = sqlite3.connect(inbox.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    (outcome,) = await deliver(inbox)
    assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.INTERNAL)
    other.execute("ROLLBACK")
    other.close()
    (outcome,) = await deliver(inbox)
    assert outcome.result is Result.DELIVERED
    await inbox.close()


async def test_a_deleted_file_is_made_anew(inbox: Inbox) -> None:
    """SQLite would go on writing to the file without a name, and the 250 would be a lie."""
    await deliver(inbox)
    shutil.rmtree(inbox.path.parent)
    envelope = make_envelope()
    (outcome,) = await deliver(inbox, envelope=envelope)
    assert outcome.result is Result.DELIVERED
    other = make_inbox(inbox.path)
    await other.open()
    assert [one.id for one in await other.list()] == [envelope.id]
    await other.close()


async def test_a_folder_that_cannot_be_made_anew_is_451(inbox: Inbox) -> None:
    shutil.rmtree(inbox.path.parent)
    inbox.path.parent.write_text("a file in the way")
    (outcome,) = await deliver(inbox)
    assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.INTERNAL)
    inbox.path.parent.unlink()
    assert (await deliver(inbox))[0].result is Result.DELIVERED


async def test_a_broken_file_is_451(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "inbox.db")
    await inbox.open()
    await deliver(inbox)
    await inbox.close()
    content = inbox.path.read_bytes()
    inbox.path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))  # the first page holds the schema
    facts: list[Fact] = []
    broken = Inbox(inbox.path, "inbox", 1000, SystemClock(), facts.append)
    await broken.open()
    (outcome,) = await deliver(broken)
    assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.INTERNAL)
    assert [fact.event for fact in facts] == ["inbox.trouble"]
    await broken.close()


@pytest.mark.parametrize("when", ["before open", "after close"])
async def test_an_inbox_that_is_not_open_takes_nothing(tmp_path: Path, when: str) -> None:
    inbox = make_inbox(tmp_path / "inbox.db")
    if when == "after close":
        await inbox.open()
        await inbox.close()
    (outcome,) = await deliver(inbox)
    assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.INTERNAL)


async def test_past_its_deadline_a_message_is_not_kept(inbox: Inbox) -> None:
    late, timely = make_envelope(), make_envelope()
    outcomes = await asyncio.gather(
        inbox.deliver(late, Message.parse(PLAIN), late.recipients, time.monotonic() - 1), deliver(inbox, PLAIN, timely)
    )
    assert [one[0].result for one in outcomes] == [Result.TEMPORARY, Result.DELIVERED]
    assert [one.id for one in await inbox.list()] == [timely.id]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("From", b"(" * 100_000),
        ("From", b"=?a?q?" * 20_000),
        ("Subject", b"=?utf-8?b?!!!?="),
        ("Subject", b"=?no-such-charset?q?x?="),
        ("Subject", b"=?hex?q?x?="),
        ("Subject", b"=?utf-7?q?+2AA-?="),  # a lone surrogate
        ("Subject", b"\xff\xfe\x00\x1b[31m"),
        ("Date", b"\x00" * 1000),
        ("Message-ID", b"<" * 100_000),
    ],
    ids=lambda value: repr(value[:20]),
)
async def test_no_header_field_fails_the_delivery(inbox: Inbox, name: str, value: bytes) -> None:
    content = name.encode() + b": " + value + b"\r\n\r\n"
    envelope = make_envelope()
    (outcome,) = await deliver(inbox, content, envelope)
    assert outcome.result is Result.DELIVERED
    assert await inbox.source(envelope.id) == content
    assert len(await inbox.list()) == 1


# --- keeping, listing, deleting ------------------------------------------------------------------


async def test_the_oldest_beyond_keep_go(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "inbox.db", keep=3)
    await inbox.open()
    envelopes = [make_envelope() for _ in range(5)]
    for envelope in envelopes:
        await deliver(inbox, PLAIN, envelope)
    assert [one.id for one in await inbox.list()] == [one.id for one in reversed(envelopes[2:])]
    await inbox.close()


async def test_keep_holds_within_one_commit_too(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "inbox.db", keep=3)
    await inbox.open()
    await asyncio.gather(*(deliver(inbox) for _ in range(10)))
    assert len(await inbox.list()) == 3
    await inbox.close()


async def test_a_list_comes_in_pages_newest_first(inbox: Inbox) -> None:
    envelopes = [make_envelope() for _ in range(5)]
    for envelope in envelopes:
        await deliver(inbox, PLAIN, envelope)
    newest_first = [one.id for one in reversed(envelopes)]
    pages = [[one.id for one in await inbox.list(2, offset)] for offset in (0, 2, 4, 6)]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:], []]


async def test_delete_counts_what_was_there(inbox: Inbox) -> None:
    envelopes = [make_envelope() for _ in range(3)]
    for envelope in envelopes:
        await deliver(inbox, PLAIN, envelope)
    assert await inbox.delete([envelopes[0].id, "0000000000000000"]) == 1
    assert await inbox.get(envelopes[0].id) is None
    assert await inbox.source(envelopes[0].id) is None
    assert await inbox.delete([]) == 0
    assert len(await inbox.list()) == 2


@pytest.mark.parametrize("count", [0, 1, store.AT_ONCE, store.AT_ONCE + 1])
async def test_delete_all(inbox: Inbox, count: int) -> None:
    await asyncio.gather(*(deliver(inbox) for _ in range(count)))
    assert await inbox.delete(None) == count
    assert await inbox.list() == ()


async def test_deleted_mail_leaves_the_file(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "inbox.db")
    await inbox.open()
    empty = inbox.path.stat().st_size
    await deliver(inbox, HEADER + b"canary " * 200_000)
    await inbox.delete(None)
    await inbox.close()
    assert inbox.path.stat().st_size <= empty
    assert b"canary canary" not in inbox.path.read_bytes()


# --- the file ------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        inbox = make_inbox(tmp_path / "data" / "inbox.db")
        await inbox.open()
        await deliver(inbox)
    finally:
        os.umask(before)
    assert mode(tmp_path / "data") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "data").iterdir()} == {
        "inbox.db": 0o600,
        "inbox.db-wal": 0o600,
        "inbox.db-shm": 0o600,
    }
    await inbox.close()


async def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "inbox.db")
    await inbox.open()
    envelope = make_envelope()
    await deliver(inbox, PLAIN, envelope)
    await inbox.close()
    again = make_inbox(tmp_path / "inbox.db")
    await again.open()
    assert await again.source(envelope.id) == PLAIN
    await again.close()


async def test_several_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    inboxes = [make_inbox(tmp_path / "inbox.db") for _ in range(5)]
    await asyncio.gather(*(inbox.open() for inbox in inboxes))
    outcomes = await asyncio.gather(*(deliver(inbox) for inbox in inboxes))
    assert {one[0].result for one in outcomes} == {Result.DELIVERED}
    assert len(await inboxes[0].list()) == 5
    for inbox in inboxes:
        await inbox.close()


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"this is no database, but it is long enough to be read as a header" * 100)


def _of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE history (url TEXT)")
    database.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def _a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_not_a_database, "not a database"),
        (_of_another_program, "another program"),
        (_newer, "newer relay"),
        (_a_folder, "directory"),
    ],
)
async def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "inbox.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    inbox = make_inbox(path)
    with pytest.raises(ConfigError) as caught:
        await inbox.open()
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert before is None or path.read_bytes() == before
    await inbox.close()

"""`relay queue`, on the queue of a stopped relay and on that of a running one."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.address import Address
from relay.cli.queue import queue
from relay.clock import SystemClock
from relay.fact import Fact
from relay.queue.commands import Commands
from relay.queue.control import SOCKET, Control
from relay.queue.entry import Recipient
from relay.queue.lock import FILE_NAME as LOCK
from relay.queue.lock import Lock
from relay.queue.sqlite import FILE_NAME
from relay.queue.states import State
from relay.queue.store import Store
from relay.report.journal import FILE_NAME as JOURNAL
from relay.report.journal import story
from tests.support.delivery import PLAIN
from tests.support.queued import DAY, HOUR, opened, put, waiting

CONFIG = """
hostname = "localhost"
data = "data"
route.all.hop = "next"
listener.app = { role = "submission", port = 2525, allow = ["127.0.0.0/8"], senders = ["ann@example.org"] }
hop.next = { host = ["127.0.0.1"], port = 1 }
hop.other = { host = ["127.0.0.1"], port = 2 }
"""
NOBODY = "0000000000000000"
Fill = Callable[..., list[str]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def data(config: Path) -> Path:
    return config.parent / "data"


@pytest.fixture
def fill(data: Path) -> Fill:
    """Put messages into the queue, one for each tuple of recipients; their ids, and the relay is stopped again."""

    async def filled(messages: Sequence[Sequence[str | Recipient]], given: dict[str, Any]) -> list[str]:
        async with opened(data) as store:
            return [await put_one(store, message, given) for message in messages]

    return lambda *messages, **given: asyncio.run(filled(messages, given))


async def put_one(store: Store, recipients: Sequence[str | Recipient], given: dict[str, Any]) -> str:
    clock = SystemClock()
    due = clock.time() + HOUR
    made = [one if isinstance(one, Recipient) else waiting(*one.split("/"), due=due) for one in recipients]
    return await put(store, clock, *made, **{"age": 2 * HOUR, **given})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(queue, arguments)


def states(id: str) -> dict[str, str]:
    return {one["address"]: one["state"] for one in json.loads(run("show", id, "--json").stdout)["recipients"]}


# --- what it prints ------------------------------------------------------------------------------


def test_a_list_is_a_table_oldest_first(fill: Fill) -> None:
    first, second = fill(["bob@example.net", "eve@example.com/other"], ["bob@example.net"])
    head, *rows = run("list").stdout.splitlines()
    assert head.split() == ["ID", "AGE", "SIZE", "FROM", "TO", "HOP", "STATE", "NEXT", "WHY"]
    said = "waiting  in 60 min  451 4.3.0 try later"
    begin = f"2 h  {len(PLAIN)}    ann@example.org  bob@example.net"
    assert rows == [f"{first}  {begin} +1  next,other  {said}", f"{second}  {begin}     next        {said}"]


def test_a_list_as_json(fill: Fill) -> None:
    (id,) = fill(["bob@example.net"])
    (found,) = json.loads(run("list", "--json").stdout)
    (recipient,) = found["recipients"]
    assert (found["id"], found["reverse_path"], found["size"]) == (id, "ann@example.org", len(PLAIN))
    assert (recipient["address"], recipient["hop"], recipient["state"]) == ("bob@example.net", "next", "waiting")
    times = [found["arrived"], *(recipient[name] for name in ("last_attempt", "next_attempt", "expires"))]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time) for time in times)


def test_an_empty_queue_is_an_empty_list(fill: Fill) -> None:
    fill()
    result = run("list", "--json")
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert len(run("list").stdout.splitlines()) == 1
    assert run("stats", "--json").stdout == "[]\n"


def test_a_list_goes_page_by_page(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.cli.queue._PAGE", 2)  # what is asked for at once
    ids = sorted(fill(*[["bob@example.net"]] * 5))  # those of one millisecond have no order but this
    result = run("list", "-n", "3", "--json")
    assert [one["id"] for one in json.loads(result.stdout)] == ids[:3]
    result = run("list", "-n", "3")
    assert f"--after {ids[2]}" in result.stderr
    result = run("list", "-n", "3", "--after", ids[2])
    assert [row.split()[0] for row in result.stdout.splitlines()[1:]] == ids[3:]
    assert result.stderr == ""


def test_filters_narrow_a_list(fill: Fill) -> None:
    (first,) = fill(["bob@example.net"], age=3 * DAY)
    (second,) = fill(["eve@example.com/other"], sender=None)
    for arguments, expected in (
        (["--sender", "@example.org"], [first]),
        (["--sender", "<>"], [second]),
        (["--recipient", "eve@example.com"], [second]),
        (["--hop", "next"], [first]),
        (["--state", "waiting"], [first, second]),
        (["--state", "held"], []),
        (["--older", "1d"], [first]),
        (["--older", "1d", "--hop", "other"], []),
    ):
        assert [one["id"] for one in json.loads(run("list", "--json", *arguments).stdout)] == expected


def test_show_tells_what_was_tried_and_what_comes_next(fill: Fill) -> None:
    held = Recipient(
        Address("eve", "example.com"), "other", State.HELD, 0, 3, crashes=2, cause="poison", host="mx.example.com"
    )
    (id,) = fill(["bob@example.net", held])
    about, bob, eve = run("show", id).stdout.rstrip().split("\n\n")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(
        rf"id: {id}\narrived: {time} \(2 h ago\)\nreverse-path: ann@example.org\n"
        rf"client: 192.0.2.1, EHLO app.example.org, listener in, login ann\nsize: {len(PLAIN)}",
        about,
    )
    assert re.fullmatch(
        r"to: bob@example.net\n  hop: next\n  state: waiting\n  attempts: 1, the last 0 s ago\n"
        rf"  next-attempt: {time} \(in 60 min\)\n  expires: {time} \(in 25 h\)\n  reply: 451 4.3.0 try later",
        bob,
    )
    assert eve.splitlines() == [
        "to: eve@example.com",
        "  hop: other",
        "  state: held",
        "  attempts: 3",
        "  crashes: 2 attempts in a row ended with the relay",
        "  host: mx.example.com",
        "  cause: poison",
    ]


def test_show_source_is_every_octet(fill: Fill) -> None:
    content = b"Subject: x\r\n\r\n" + bytes(range(256)) + b"\x1b[2J\r\nno newline at the end"
    (id,) = fill(["bob@example.net"], content=content)
    assert run("show", id, "--source").stdout_bytes == content


def test_stats_are_a_table(fill: Fill) -> None:
    fill(["bob@example.net", "eve@example.com/other"], ["bob@example.net"])
    rows = [re.split(" {2,}", row) for row in run("stats").stdout.splitlines()]
    assert rows == [
        ["HOP", "STATE", "RECIPIENTS", "MESSAGES", "OLDEST"],
        ["next", "waiting", "2", "2", "2 h"],
        ["other", "waiting", "1", "1", "2 h"],
    ]
    (other,) = json.loads(run("stats", "--hop", "other", "--json").stdout)
    assert (other["hop"], other["state"], other["recipients"], other["messages"]) == ("other", "waiting", 1, 1)
    assert 2 * HOUR <= other["oldest_seconds"] < 2 * HOUR + 60


@pytest.mark.parametrize("verb", [["list"], ["show"], ["list", "--json"], ["show", "--json"], ["stats"]])
def test_nothing_foreign_steers_the_terminal(fill: Fill, verb: list[str]) -> None:
    hostile = "\x1b[2J\x9b31m\u202e\u2028\x07"
    recipient = Recipient(Address(hostile, hostile), hostile, reply=hostile, host=hostile, cause=hostile)
    (id,) = fill([recipient], helo=hostile, sender=f"{hostile}@{hostile}")
    result = run(*verb, *([id] if verb[0] == "show" else []))
    assert result.exit_code == 0
    assert result.stdout.replace("\n", "").isprintable()


# --- what it does --------------------------------------------------------------------------------


def test_mail_is_held_released_and_dropped(fill: Fill, data: Path) -> None:
    (id,) = fill(["bob@example.net", "eve@example.com/other"])
    result = run("hold", id, "--hop", "next")
    assert (result.exit_code, result.stdout) == (0, "1 recipient of 1 message held\n")
    assert states(id) == {"bob@example.net": "held", "eve@example.com": "waiting"}
    result = run("release", "--state", "held", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"recipients": 1, "messages": 1, "others": {}})
    result = run("drop", "--sender", "ann@example.org")
    assert (result.exit_code, result.stdout) == (0, "2 recipients of 1 message dropped\n")
    assert run("list", "--json").stdout == "[]\n"
    # Nobody listened to the log of a stopped relay, and yet `relay explain` knows.
    told = [fact for _, fact in story(data / JOURNAL, id)]
    assert [fact.event for fact in told] == ["queue.held", "queue.released", "queue.dropped"]
    assert told[-1].values == {"to": ["bob@example.net", "eve@example.com"], "cause": "operator"}


@pytest.mark.parametrize("verb", [["retry", "--all"], ["retry", "--hop", "next"], ["flush"], ["flush", "next"]])
def test_mail_is_made_due(fill: Fill, verb: list[str]) -> None:
    fill(["bob@example.net"])
    result = run(*verb)
    assert (result.exit_code, result.stdout) == (0, "1 recipient of 1 message due now\n")
    assert run("list").stdout.splitlines()[1].split()[8] == "due"


@pytest.mark.parametrize(
    "verb", [["hold", NOBODY], ["release", "--all"], ["retry", "--state", "held"], ["drop", "--older", "1d"]]
)
def test_nothing_selected_is_1(fill: Fill, verb: list[str]) -> None:
    (id,) = fill(["bob@example.net"])
    result = run(*verb)
    assert (result.exit_code, result.stdout.split(" of ")[0]) == (1, "0 recipients")
    assert states(id) == {"bob@example.net": "waiting"}


def test_what_was_left_alone_is_said(fill: Fill) -> None:
    (id,) = fill(["bob@example.net", Recipient(Address("eve", "example.com"), "other", State.HELD)])
    result = run("retry", id)
    assert result.stdout == "1 recipient of 1 message due now\n"
    assert result.stderr == "1 recipient left alone: held: `relay queue release` frees it\n"


def test_flush_of_an_empty_queue_is_fine(fill: Fill) -> None:
    fill()
    assert run("flush").exit_code == 0


def test_to_drop_all_unasked_needs_a_yes(fill: Fill) -> None:
    (id,) = fill(["bob@example.net"])
    result = run("drop", "--all")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert states(id) == {"bob@example.net": "waiting"}
    assert run("drop", "--all", "--yes").exit_code == 0
    assert run("list", "--json").stdout == "[]\n"


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 1), (b"\n", 1, 1), (b"y\n", 0, 0)])
def test_on_a_terminal_a_drop_asks(fill: Fill, config: Path, answer: bytes, code: int, left: int) -> None:
    (id,) = fill(["bob@example.net", "eve@example.com"])
    with terminal() as (ours, theirs):
        os.write(ours, answer)
        command = [sys.executable, "-m", "relay", "queue", "drop", id, "-c", str(config)]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Drop 2 recipients? Nobody will be told." in done.stderr
    assert len(json.loads(run("list", "--json").stdout)) == left


def test_the_source_on_a_terminal_is_escaped(fill: Fill, config: Path) -> None:
    (id,) = fill(["bob@example.net"], content=b"Subject: \x1b]0;owned\x07\r\n\r\n\x1b[2J\xff\r\n")
    with terminal() as (ours, theirs):
        command = [sys.executable, "-m", "relay", "queue", "show", id, "--source", "-c", str(config)]
        subprocess.run(command, stdout=theirs, timeout=60, check=True)
        shown = os.read(ours, 65536)
    assert b"Subject: \\u001b]0;owned\\u0007" in shown
    assert set(shown) - {0x0D, 0x0A} <= set(range(32, 127))


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "../../etc/passwd"],
        ["show", NOBODY + "\n"],
        ["show", NOBODY, "--source", "--json"],
        ["hold"],
        ["release"],
        ["retry"],
        ["drop"],
        ["drop", "x'; --"],
        ["drop", NOBODY, "--all"],
        ["hold", "--hop", "next", "--all"],
        ["hold", "--older", "1"],
        ["hold", "--older", "soon"],
        ["hold", "--state", "done"],
        ["hold", "--sender", "example.org"],
        ["list", "-n", "0"],
        ["list", "--after", "latest"],
        ["flush", "nowhere"],
    ],
)
def test_wrong_use_is_2(fill: Fill, arguments: list[str]) -> None:
    (id,) = fill(["bob@example.net"])
    assert run(*arguments).exit_code == 2
    assert states(id) == {"bob@example.net": "waiting"}


@pytest.mark.parametrize("verb", [["show", NOBODY], ["show", NOBODY, "--source"], ["show", NOBODY, "--json"]])
def test_a_message_that_is_not_there_is_1(fill: Fill, verb: list[str]) -> None:
    fill()
    result = run(*verb)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no message {NOBODY} in the queue" in result.stderr


@pytest.mark.parametrize("verb", [["list"], ["stats"], ["show", NOBODY], ["drop", "--all", "--yes"]])
def test_no_queue_yet_is_1_and_makes_none(config: Path, verb: list[str]) -> None:
    result = run(*verb)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no relay has run" in result.stderr
    assert not (config.parent / "data").exists()


def test_a_file_that_is_no_queue_is_1(data: Path) -> None:
    data.mkdir()
    (data / FILE_NAME).write_bytes(b"junk" * 1000)
    result = run("list")
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr


def test_an_unloadable_configuration_is_2(config: Path) -> None:
    config.write_text("nonsense = 1")
    assert run("list").exit_code == 2


# --- beside a relay ------------------------------------------------------------------------------


def test_beside_a_relay_that_is_starting_the_queue_can_be_seen_and_not_changed(fill: Fill, data: Path) -> None:
    (id,) = fill(["bob@example.net"])
    with Lock(data / LOCK):
        assert states(id) == {"bob@example.net": "waiting"}
        result = run("drop", id)
    assert result.exit_code == 1
    assert f"another relay (process {os.getpid()})" in result.stderr
    assert states(id) == {"bob@example.net": "waiting"}


def test_to_look_is_not_to_repair(fill: Fill, data: Path) -> None:
    """A relay was killed amid an attempt: who changes something repairs first, and says what that may have doubled."""
    (id,) = fill([waiting("bob@example.net")])

    async def claim() -> None:
        async with opened(data) as store:
            assert await store.claim("next", 1)

    asyncio.run(claim())
    assert states(id) == {"bob@example.net": "active"}
    assert not (data / JOURNAL).exists()
    assert run("hold", id).exit_code == 0
    assert states(id) == {"bob@example.net": "held"}
    lapsed, held = (fact for _, fact in story(data / JOURNAL, id))
    assert (lapsed.event, lapsed.values["may_duplicate"], held.event) == ("queue.lapsed", "crash", "queue.held")


class Relay:
    """What `relay queue` meets of a running one."""

    def __init__(self, store: Store, config: Path) -> None:
        self.store, self.config = store, config
        self.facts: list[Fact] = []
        self.worker: list[str] = []
        self.commands = Commands(
            store,
            extend=lambda: DAY,
            wake=lambda: self.worker.append("wake"),
            flush=lambda hop: self.worker.append(f"flush {hop}"),
            record=self.facts.append,
        )

    async def queue(self, *arguments: str, code: int = 0) -> str:
        """What `relay queue` prints, from a process of its own."""
        command = [sys.executable, "-m", "relay", "queue", *arguments, "-c", str(self.config)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout.decode()


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[Relay]:
    data = config.parent / "data"
    with Lock(data / LOCK):
        async with opened(data) as store:
            relay = Relay(store, config)
            control = Control(data / SOCKET, relay.commands, relay.facts.append)
            await control.start()
            try:
                yield relay
            finally:
                await control.stop()


async def test_a_running_relay_is_asked_and_its_worker_told(config: Path) -> None:
    async with running(config) as relay:
        content = b"Subject: x\r\n\r\n" + bytes(range(256)) * 5000
        one = await put_one(relay.store, ["bob@example.net"], {"content": content})
        other = await put_one(relay.store, ["eve@example.com/other"], {})
        assert [found["id"] for found in json.loads(await relay.queue("list", "--json"))] == [one, other]
        assert await relay.queue("flush", "next") == "1 recipient of 1 message due now\n"
        assert await relay.queue("drop", other) == "1 recipient of 1 message dropped\n"
        await relay.queue("hold", other, code=1)
        await relay.queue("show", other, code=1)
        assert relay.worker == ["flush next", "wake"]
        assert [(fact.event, fact.id) for fact in relay.facts] == [("queue.dropped", other)]


async def test_mail_goes_on_while_an_operator_works(config: Path) -> None:
    async with running(config) as relay:
        for _ in range(30):
            await put_one(relay.store, ["bob@example.net"], {})
        holding = asyncio.create_task(relay.queue("hold", "--sender", "ann@example.org"))
        more = [await put_one(relay.store, ["bob@example.net"], {"sender": "eve@example.com"}) for _ in range(30)]
        assert await holding == "30 recipients of 30 messages held\n"
        left = json.loads(await relay.queue("list", "--state", "waiting", "--json"))
        assert {found["id"] for found in left} == set(more)

"""`relay inbox`: what it prints is for people or programs, never an order to a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.address import Address
from relay.cli.inbox import inbox
from relay.clock import SystemClock
from relay.envelope import Envelope, Tls
from relay.inbox.store import FILE_NAME, Inbox
from tests.support.delivery import PLAIN, deliver, make_envelope

CONFIG = """
hostname = "localhost"
data = "data"
[listener.capture]
role = "capture"
port = 1025
"""
Fill = Callable[..., list[Envelope]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


async def store(config: Path) -> Inbox:
    opened = Inbox(config.parent / "data" / FILE_NAME, "inbox", 1000, SystemClock(), lambda fact: None)
    await opened.open()
    return opened


@pytest.fixture
def fill(config: Path) -> Fill:
    """Deliver messages to the inbox; their envelopes."""

    async def delivered(*contents: bytes) -> list[Envelope]:
        opened = await store(config)
        envelopes = [make_envelope("bob@example.net", "eve@example.com") for _ in contents]
        for envelope, content in zip(envelopes, contents, strict=True):
            await deliver(opened, content, envelope)
        await opened.close()
        return envelopes

    return lambda *contents: asyncio.run(delivered(*contents))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(inbox, arguments)


def test_list_is_a_table_newest_first(fill: Fill) -> None:
    first, second = fill(PLAIN, b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n")
    head, *rows = run("list").output.splitlines()
    assert head.split() == ["ID", "TIME", "FROM", "TO", "SIZE", "SUBJECT"]
    assert [row.split()[0] for row in rows] == [second.id, first.id]
    assert rows[0].endswith("Grüße")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    expected = rf"{first.id}  {time}  ann@example.org  bob@example.net \+1  {len(PLAIN)} +hello"
    assert re.fullmatch(expected, rows[1])


def test_list_as_json(fill: Fill) -> None:
    (envelope,) = fill(PLAIN)
    (found,) = json.loads(run("list", "--json").output)
    assert found.pop("time").endswith("Z")
    assert found == {
        **{"id": envelope.id, "hop": "inbox", "listener": "capture", "ip": "127.0.0.1", "helo": "client", "tls": None},
        **{"login": None, "reverse_path": "ann@example.org", "recipients": ["bob@example.net", "eve@example.com"]},
        **{"size": len(PLAIN), "from": "Ann <ann@example.org>", "subject": "hello", "date": "", "message_id": ""},
    }


def test_list_goes_page_by_page(fill: Fill) -> None:
    envelopes = fill(*[PLAIN] * 3)
    pages = [json.loads(run("list", "--json", "-n", "2", "--skip", skip).output) for skip in ("0", "2")]
    assert [[one["id"] for one in page] for page in pages] == [
        [envelopes[2].id, envelopes[1].id],
        [envelopes[0].id],
    ]


def test_an_empty_inbox_is_an_empty_list(fill: Fill) -> None:
    fill()
    assert run("list", "--json").output == "[]\n"
    assert len(run("list").output.splitlines()) == 1


def test_show_prints_envelope_header_and_text(fill: Fill) -> None:
    content = b"From: =?utf-8?q?J=C3=B6rg?= <j@x.example>\r\nSubject: a\r\n b\r\n\r\nOne line.\r\n\tTwo.\r\n"
    (envelope,) = fill(content)
    about, header, text = run("show", envelope.id).output.split("\n\n")
    assert f"id: {envelope.id}" in about.splitlines()
    assert "reverse-path: ann@example.org" in about.splitlines()
    assert "recipients: bob@example.net, eve@example.com" in about.splitlines()
    assert header.splitlines() == ["From: Jörg <j@x.example>", "Subject: a b"]
    assert text.splitlines() == ["One line.", "        Two."]


def test_show_as_json(fill: Fill) -> None:
    (envelope,) = fill(PLAIN)
    found = json.loads(run("show", "latest", "--json").output)
    assert found["id"] == envelope.id
    assert found["headers"] == [["From", "Ann <ann@example.org>"], ["Subject", "hello"]]
    assert found["text"] == "One line.\r\n"


def test_latest_is_the_newest(fill: Fill) -> None:
    _, newest = fill(PLAIN, b"Subject: newer\r\n\r\n")
    assert f"id: {newest.id}\n" in run("show", "latest").output
    assert run("source", "latest").output_bytes == b"Subject: newer\r\n\r\n"
    assert run("delete", "latest").output == "1 deleted\n"
    assert run("source", "latest").output_bytes == PLAIN


def test_source_is_every_octet(fill: Fill) -> None:
    content = b"Subject: x\r\n\r\n" + bytes(range(256)) + b"\x1b[2J\r\nno newline at the end"
    (envelope,) = fill(content)
    assert run("source", envelope.id).stdout_bytes == content


def test_source_on_a_terminal_is_escaped(fill: Fill, config: Path) -> None:
    fill(b"Subject: \x1b]0;owned\x07\r\n\r\n\x1b[2J\xff\xc2\x9b31m\r\n")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "relay", "inbox", "source", "latest", "-c", str(config)]
    subprocess.run(command, stdout=theirs, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert b"Subject: \\u001b]0;owned\\u0007" in shown
    assert set(shown) - {0x0D, 0x0A} <= set(range(32, 127))


@pytest.mark.parametrize("verb", [["list"], ["show", "latest"], ["show", "latest", "--json"], ["list", "--json"]])
def test_nothing_foreign_steers_the_terminal(config: Path, verb: list[str]) -> None:
    hostile = "\x1b[2J\x9b31m\u202e\u2028\x07"

    async def delivered() -> None:
        opened = await store(config)
        envelope = make_envelope(login=hostile, helo=hostile, tls=Tls(hostile, "", 0))
        envelope.reverse_path = Address(hostile, hostile)
        envelope.recipients = [Address(hostile, hostile)]
        raw = hostile.encode()
        content = (
            b"From: " + raw + b"\r\nSubject: =?utf-8?q?=1B[2J=0A=E2=80=AE?=\r\nX: " + raw + b"\r\n\r\n" + raw + b"\r\n"
        )
        await deliver(opened, content, envelope)
        await opened.close()

    asyncio.run(delivered())
    result = run(*verb)
    assert result.exit_code == 0
    assert result.output.replace("\n", "").isprintable()


def test_show_says_so_when_there_is_no_text(fill: Fill) -> None:
    fill(b"Content-Type: image/png\r\n\r\n\x89PNG\r\n")
    assert "no text part" in run("show", "latest").output


def test_delete_counts(fill: Fill) -> None:
    first, second, _ = fill(PLAIN, PLAIN, PLAIN)
    result = run("delete", first.id, second.id, "0000000000000000")
    assert (result.exit_code, result.output) == (0, "2 deleted\n")
    result = run("delete", first.id)
    assert (result.exit_code, result.output) == (1, "0 deleted\n")
    result = run("delete", "--all", "--json")
    assert (result.exit_code, json.loads(result.output)) == (0, {"deleted": 1})
    assert run("delete", "--all").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "../../etc/passwd"],
        ["show", "ABCDEFGHIJKLMNOP"],
        ["show", "short"],
        ["source", "0" * 17],
        ["show", "0000000000000000\n"],
        ["delete", "x'; --"],
        ["delete"],
        ["delete", "latest", "--all"],
        ["list", "-n", "0"],
    ],
)
def test_wrong_use_is_2(fill: Fill, arguments: list[str]) -> None:
    fill(PLAIN)
    assert run(*arguments).exit_code == 2
    assert len(json.loads(run("list", "--json").output)) == 1


@pytest.mark.parametrize("verb", ["show", "source"])
def test_an_id_that_is_not_there_is_1(fill: Fill, verb: str) -> None:
    fill(PLAIN)
    result = run(verb, "0000000000000000")
    assert result.exit_code == 1
    assert "no message 0000000000000000" in result.output


@pytest.mark.parametrize("verb", [["show", "latest"], ["source", "latest"], ["delete", "latest"]])
def test_latest_of_nothing_is_1(fill: Fill, verb: list[str]) -> None:
    fill()
    result = run(*verb)
    assert result.exit_code == 1
    assert "the inbox is empty" in result.output


@pytest.mark.parametrize("verb", [["list"], ["show", "latest"], ["delete", "--all"]])
def test_no_inbox_yet_is_1_and_makes_none(config: Path, verb: list[str]) -> None:
    result = run(*verb)
    assert result.exit_code == 1
    assert "no inbox at" in result.output
    assert not (config.parent / "data").exists()


def test_a_file_that_is_no_inbox_is_1(config: Path) -> None:
    (config.parent / "data").mkdir()
    (config.parent / "data" / FILE_NAME).write_bytes(b"junk" * 1000)
    result = run("list")
    assert result.exit_code == 1
    assert "not a database" in result.output


def test_an_unloadable_configuration_is_2(config: Path) -> None:
    config.write_text("nonsense = 1")
    assert run("list").exit_code == 2


async def test_it_works_beside_a_running_relay(config: Path) -> None:
    """Another process reads and deletes while the inbox takes mail."""
    opened = await store(config)
    envelopes = [make_envelope() for _ in range(3)]
    for envelope in envelopes:
        await deliver(opened, PLAIN, envelope)

    def relay(*arguments: str) -> str:
        command = [sys.executable, "-m", "relay", "inbox", *arguments, "-c", str(config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    deleting = asyncio.create_task(asyncio.to_thread(relay, "delete", envelopes[0].id))
    more = await asyncio.gather(*(deliver(opened) for _ in range(20)))
    assert {one[0].reply.code for one in more} == {250}
    assert await deleting == "1 deleted\n"
    assert len(json.loads(await asyncio.to_thread(relay, "list", "--json"))) == 22
    assert await opened.get(envelopes[0].id) is None
    await opened.close()

"""One message from a client to a mailbox server, through the whole relay."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dkim
import pytest

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.message import Message
from relay.publish.keys import dns_record
from tests.support.mailbox import Mailbox, mailbox
from tests.support.running import Running, running
from tests.support.transcript import Dialogue, play

HELLO = """
S: 220 relay.test ESMTP*
C: EHLO client.test
S: 250 *
"""
MAIL = """
C: MAIL FROM:<ann@ours.org>
S: 250 2.1.0 *
C: RCPT TO:<bob@theirs.org>
S: 250 2.1.5 *
C: DATA
S: 354 *
C: From: Ann <ann@ours.org>
C: Subject: lunch
C:
C: ..a dot line
C: bye
C: .
"""
SENT = HELLO + MAIL


def tables(port: int, tmp_path: Path) -> dict[str, Any]:
    return {
        "listener": {
            "submission": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["@ours.org"]},
            "gateway": {"role": "gateway", "domains": ["ours.org"]},
            "capture": {"role": "capture"},
        },
        "route": {"all": {"hop": "mailbox"}},
        "hop": {"mailbox": {"host": ["127.0.0.1"], "port": port, "tls": "none"}},
        "domain": {
            "ours": {
                "name": "ours.org",
                "key": {
                    "rsa": {"selector": "r1", "file": str(tmp_path / "r1.pem"), "generate": True},
                    "ed": {
                        "selector": "e1",
                        "file": str(tmp_path / "e1.pem"),
                        "generate": True,
                        "algorithm": "ed25519-sha256",
                    },
                },
            }
        },
    }


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with mailbox() as made:
        yield made


@pytest.fixture
async def relay(box: Mailbox, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tables(box.port, tmp_path), tmp_path / "data") as made:
        yield made


async def test_a_message_is_signed_traced_and_delivered_byte_for_byte(relay: Running, box: Mailbox) -> None:
    reply = await play(relay.port("submission"), SENT + "S: 250 2.0.0 stored [[]*]\nC: QUIT\nS: 221 *")
    assert reply.startswith("221")
    [arrived] = box.contents
    message = Message.parse(arrived)
    assert bytes(message.body) == b".a dot line\r\nbye\r\n"
    names = [field.name for field in message.fields]
    assert names[0] == b"received"
    assert names.count(b"dkim-signature") == 2
    assert b"From: Ann <ann@ours.org>\r\nSubject: lunch\r\n" in arrived
    assert len(message.all(b"date")) == len(message.all(b"message-id")) == 1
    assert relay.of("edit.signed")[0].values["selectors"] == ["r1", "e1"]


async def test_both_signatures_verify(relay: Running, box: Mailbox, tmp_path: Path) -> None:
    await play(relay.port("submission"), SENT + "S: 250 *")
    keys = [
        SigningKey.load("ours.org", "r1", Algorithm.RSA, tmp_path / "r1.pem"),
        SigningKey.load("ours.org", "e1", Algorithm.ED25519, tmp_path / "e1.pem"),
    ]
    zone = {f"{key.selector}._domainkey.ours.org.".encode(): dns_record(key).encode() for key in keys}
    verifier = dkim.DKIM(box.contents[0])
    assert [verifier.verify(idx, dnsfunc=lambda name, timeout=5: zone[name]) for idx in (0, 1)] == [True, True]


async def test_the_next_hops_refusal_is_the_clients(relay: Running, box: Mailbox) -> None:
    box.recipients["bob@theirs.org"] = "550 5.1.1 no such user"
    await play(relay.port("submission"), SENT + "S: 550 5.1.1 no such user")
    box.recipients.clear()
    box.final = "552 5.2.2 over quota"
    await play(relay.port("submission"), SENT + "S: 552 5.2.2 over quota")
    assert box.mails == []


async def test_a_next_hop_that_is_down_is_temporary(relay: Running, box: Mailbox, tmp_path: Path) -> None:
    given = tables(1, tmp_path)  # nothing listens on port 1
    async with running(given, tmp_path / "other") as lonely:
        await play(lonely.port("submission"), SENT + "S: 451 4.4.1 *")
    assert [fact.level for fact in lonely.of("pipeline.answered")] == ["warning"]


async def test_recipients_that_disagree_are_settled_at_the_retry(relay: Running, box: Mailbox) -> None:
    box.recipients["eve@theirs.org"] = "550 5.1.1 no such user"
    two = MAIL.replace("C: DATA", "C: RCPT TO:<eve@theirs.org>\nS: {}\nC: DATA")
    await play(relay.port("submission"), HELLO + two.format("250 *") + "S: 451 4.5.3 *")
    assert box.mails == []
    await play(relay.port("submission"), HELLO + two.format("550 5.1.1 no such user") + "S: 250 *")
    assert [mail.rcpt_tos for mail in box.mails] == [["bob@theirs.org"]]


SENDERS = [
    # MAIL FROM, the From field, what the client hears, when
    ("eve@theirs.org", "ann@ours.org", "550 5.7.1 *", "mail"),
    ("ann@ours.org", "eve@theirs.org", "550 5.7.1 *", "dot"),
    ("ann@ours.org", "ann@ours.org, eve@theirs.org", "550 5.6.0 *", "dot"),
    ("ann@ours.org", "ann@ours.org\r\nFrom: eve@theirs.org", "550 5.6.0 *", "dot"),
    ("ann@ours.org", '"ann@ours.org" <eve@theirs.org>', "550 5.7.1 *", "dot"),
]


@pytest.mark.parametrize(("reverse_path", "author", "reply", "when"), SENDERS)
async def test_a_client_sends_as_itself_only(
    relay: Running, box: Mailbox, reverse_path: str, author: str, reply: str, when: str
) -> None:
    script = HELLO + f"C: MAIL FROM:<{reverse_path}>\n"
    if when == "mail":
        script += f"S: {reply}"
    else:
        script += f"S: 250 *\nC: RCPT TO:<bob@theirs.org>\nS: 250 *\nC: DATA\nS: 354 *\nC: From: {author}\n"
        script = script.replace("\r\n", "\nC: ") + f"C:\nC: hello\nC: .\nS: {reply}"
    await play(relay.port("submission"), script)
    assert box.mails == []


LOOPS = [
    ("Received: from a by b; x\n" * 50, "554 5.4.6 *"),
    ("Received: from a by relay.test with ESMTP; x\n" * 3, "554 5.4.6 *"),
    ("Received: from a by b; x\n" * 49, "250 *"),
    ("Received: from relay.test by b; x\n" * 10, "250 *"),
]


@pytest.mark.parametrize(("fields", "reply"), LOOPS)
async def test_a_loop_ends(relay: Running, fields: str, reply: str) -> None:
    lines = "".join(f"C: {line}\n" for line in fields.splitlines())
    script = SENT.replace("C: Subject: lunch\n", lines).replace("ann@ours.org>\nS", "ann@ours.org>\nS")
    await play(relay.port("submission"), script + f"S: {reply}")


async def test_a_gateway_takes_its_domains_and_removes_forged_results(relay: Running, box: Mailbox) -> None:
    script = (
        SENT.replace("bob@theirs.org", "bob@ours.org")
        .replace("MAIL FROM:<ann@ours.org>", "MAIL FROM:<eve@theirs.org>")
        .replace(
            "C: Subject",
            "C: Authentication-Results: RELAY.test; dmarc=pass\nC: Return-Path: <x@y.z>\n"
            "C: X-Relay-Mark: no\nC: Subject",
        )
    )
    await play(relay.port("gateway"), script + "S: 250 *")
    [arrived] = box.contents
    message = Message.parse(arrived)
    assert [field.name for field in message.fields] == [b"authentication-results", b"received", b"from", b"subject"]
    assert relay.of("edit.signed") == []  # a gateway signs nothing


async def test_a_gateway_relays_for_nobody(relay: Running, box: Mailbox) -> None:
    await play(
        relay.port("gateway"),
        HELLO + "C: MAIL FROM:<eve@theirs.org>\nS: 250 *\nC: RCPT TO:<bob@theirs.org>\nS: 550 5.7.1 *\n"
        "C: RCPT TO:<Postmaster>\nS: 250 *\nC: DATA\nS: 354 *\nC: Subject: x\nC:\nC: .\nS: 250 *",
    )
    assert [mail.rcpt_tos for mail in box.mails] == [["Postmaster@ours.org"]]


async def test_capture_signs_and_keeps_everything_in_the_inbox(relay: Running, box: Mailbox) -> None:
    await play(relay.port("capture"), SENT + "S: 250 2.0.0 OK *")
    assert box.mails == []
    [summary] = await relay.app._inbox.list()
    source = await relay.app._inbox.source(summary.id)
    assert source.count(b"DKIM-Signature:") == 2
    assert source.endswith(b"\r\n\r\n.a dot line\r\nbye\r\n")


async def test_a_client_that_leaves_behind_its_dot_changes_nothing(relay: Running, box: Mailbox) -> None:
    box.hold = asyncio.Event()
    await play(relay.port("submission"), SENT + "C: ...")
    await box.arrived.wait()
    box.hold.set()
    async with asyncio.timeout(10):
        while "pipeline.answered" not in relay.events():
            await asyncio.sleep(0.01)
    assert len(box.mails) == 1
    assert relay.of("pipeline.answered")[0].values["reply"].startswith("250")


async def test_a_bug_of_ours_is_temporary_and_tells_nothing(
    relay: Running, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("database is locked: /var/lib/secret.db")

    monkeypatch.setattr("relay.edit.trace.received_field", broken)
    await play(relay.port("submission"), SENT + "S: 451 4.3.0 internal trouble, try again later")
    monkeypatch.undo()
    assert [fact.level for fact in relay.of("accept.trouble")] == ["error"]
    # RFC 5321 §4.1.1.4: the failed transaction is over; its envelope serves no second message.
    await play(relay.port("submission"), HELLO + "C: DATA\nS: 503 *")
    assert box.mails == []


@pytest.mark.parametrize(
    ("choice", "reply", "level"), [("refuse", "451 4.3.5 *", "error"), ("pass", "250 *", "warning")]
)
async def test_a_domain_of_ours_without_a_key_is_never_silent(
    box: Mailbox, tmp_path: Path, choice: str, reply: str, level: str
) -> None:
    given = tables(box.port, tmp_path)
    given["domain"]["ours"] |= {"key": {}, "on_missing_key": choice}
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("submission"), SENT + f"S: {reply}")
    assert [fact.level for fact in relay.of("edit.unsigned")] == [level]


async def test_a_stop_lets_the_final_dot_finish_and_says_421_to_the_idle(tmp_path: Path, box: Mailbox) -> None:
    box.hold = asyncio.Event()
    async with running(tables(box.port, tmp_path), tmp_path / "data") as relay:
        idle, busy = await Dialogue.open(relay.port("submission")), await Dialogue.open(relay.port("submission"))
        await idle.play(HELLO)
        await busy.play(SENT)
        await box.arrived.wait()
        stopping = asyncio.create_task(relay.app.stop())
        await idle.play("S: 421 4.3.2 *\nS: (closed)")
        box.hold.set()
        await busy.play("S: 250 *\nS: 421 4.3.2 *\nS: (closed)")
        await stopping
        await idle.close()
        await busy.close()
    assert len(box.mails) == 1


async def test_a_listener_promises_what_its_next_hop_takes(tmp_path: Path) -> None:
    async with (
        mailbox(smtputf8=False, size=1000) as plain,
        running(tables(plain.port, tmp_path), tmp_path / "data") as relay,
    ):
        reply = await play(relay.port("gateway"), HELLO)
        assert "SIZE 1000" in reply
        assert "SMTPUTF8" not in reply
        assert "8BITMIME" in reply
        assert "SMTPUTF8" in await play(relay.port("capture"), HELLO)


async def test_a_stop_does_not_wait_for_a_next_hop_that_has_not_our_dot(tmp_path: Path) -> None:
    taken = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    given = tables(silent.sockets[0].getsockname()[1], tmp_path) | {"timeout": {"drain": "200ms"}}
    async with silent, running(given, tmp_path / "data") as relay:
        taken.clear()  # the relay's own question at start
        client = await Dialogue.open(relay.port("submission"))
        await client.play(SENT)
        await taken.wait()
        await relay.app.stop()
        await client.play("S: 451 4.4.2 *\nS: 421 4.3.2 *\nS: (closed)")
        await client.close()

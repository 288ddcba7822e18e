"""Senders rewritten on their way out: after they were permitted, before they are signed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dkim
import pytest

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.publish.keys import dns_record
from tests.support.mailbox import Mailbox, mailbox
from tests.support.running import Running, running
from tests.support.transcript import play

SENT = """
S: 220 relay.test ESMTP*
C: EHLO client.test
S: 250 *
C: MAIL FROM:<{0}>
S: 250 2.1.0 *
C: RCPT TO:<bob@theirs.org>
S: 250 2.1.5 *
C: DATA
S: 354 *
C: From: "Ann, of ann@inside.ours.org"
C:  <{1}> (Ann)
C: Reply-To: ann@inside.ours.org
C: Subject: lunch
C:
C: write to ann@inside.ours.org
C: .
"""
ANN, NULL = "ann@inside.ours.org", ""


def tables(port: int, tmp_path: Path) -> dict[str, Any]:
    key = {"selector": "r1", "file": str(tmp_path / "r1.pem"), "generate": True}
    return {
        "listener": {
            "submission": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["@inside.ours.org"]},
            "gateway": {"role": "gateway", "domains": ["theirs.org"]},
        },
        "masquerade": {"inside": {"match": ["@inside.ours.org"], "address": "@ours.org"}},
        "route": {"all": {"hop": "mailbox"}},
        "hop": {"mailbox": {"host": ["127.0.0.1"], "port": port, "tls": "none"}},
        "domain": {"ours": {"name": "ours.org", "key": {"rsa": key}}},
    }


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with mailbox() as made:
        yield made


@pytest.fixture
async def relay(box: Mailbox, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tables(box.port, tmp_path), tmp_path / "data") as made:
        yield made


async def test_envelope_and_from_are_rewritten_and_then_signed(relay: Running, box: Mailbox, tmp_path: Path) -> None:
    await play(relay.port("submission"), SENT.format(ANN, ANN) + "S: 250 *")
    assert [mail.mail_from for mail in box.mails] == ["ann@ours.org"]
    [arrived] = box.contents
    assert b'\r\nFrom: "Ann, of ann@inside.ours.org"\r\n <ann@ours.org> (Ann)\r\n' in arrived
    assert b"\r\nReply-To: ann@inside.ours.org\r\n" in arrived
    assert arrived.endswith(b"\r\n\r\nwrite to ann@inside.ours.org\r\n")
    key = SigningKey.load("ours.org", "r1", Algorithm.RSA, tmp_path / "r1.pem")
    assert dkim.DKIM(arrived).verify(dnsfunc=lambda name, timeout=5: dns_record(key).encode())
    [fact] = relay.of("edit.rewritten")
    assert fact.values == {"from": "ann@ours.org", "author": "ann@ours.org"}
    # What the client said is what the log of the transaction has.
    assert relay.of("pipeline.answered")[0].values["from"] == ANN


async def test_the_null_reverse_path_stays(relay: Running, box: Mailbox) -> None:
    await play(relay.port("submission"), SENT.format(NULL, ANN) + "S: 250 *")
    assert [mail.mail_from for mail in box.mails] == ["<>"]
    assert b"<ann@ours.org> (Ann)" in box.contents[0]


async def test_permission_is_asked_for_the_senders_as_they_came(relay: Running, box: Mailbox) -> None:
    """Nobody may send as what the operator makes of others."""
    refused = SENT.format("ann@ours.org", ANN).partition("S: 250 2.1.0")[0]
    await play(relay.port("submission"), refused + "S: 550 5.7.1 *")
    await play(relay.port("submission"), SENT.format(ANN, "ann@ours.org") + "S: 550 5.7.1 *")
    assert box.mails == []


async def test_a_gateway_rewrites_nothing(relay: Running, box: Mailbox) -> None:
    await play(relay.port("gateway"), SENT.format(ANN, ANN) + "S: 250 *")
    assert [mail.mail_from for mail in box.mails] == [ANN]
    assert b"<ann@inside.ours.org> (Ann)" in box.contents[0]


async def test_routes_see_the_sender_as_it_came(box: Mailbox, tmp_path: Path) -> None:
    async with mailbox() as other:
        given = tables(box.port, tmp_path)
        given["hop"]["other"] = {"host": ["127.0.0.1"], "port": other.port, "tls": "none"}
        given["route"] = {"inside": {"hop": "other", "sender_domain": ["inside.ours.org"]}, **given["route"]}
        async with running(given, tmp_path / "data") as relay:
            await play(relay.port("submission"), SENT.format(ANN, ANN) + "S: 250 *")
        assert [mail.mail_from for mail in other.mails] == ["ann@ours.org"]
    assert box.mails == []


async def test_a_retry_after_recipients_disagreed_is_known_again(relay: Running, box: Mailbox) -> None:
    box.recipients["eve@theirs.org"] = "550 5.1.1 no such user"
    two = SENT.format(ANN, ANN).replace("C: DATA", "C: RCPT TO:<eve@theirs.org>\nS: {}\nC: DATA")
    await play(relay.port("submission"), two.format("250 *") + "S: 451 4.5.3 *")
    await play(relay.port("submission"), two.format("550 5.1.1 no such user") + "S: 250 *")
    assert [mail.rcpt_tos for mail in box.mails] == [["bob@theirs.org"]]

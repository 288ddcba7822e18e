"""Who answers for a message: its next hop at once, or the queue; and whoever did not hear hears it at the retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checked import CONTENT, SIGNED, SPOOFER, checked
from tests.support.fake_hop import FakeHop, Reply
from tests.support.mailbox import Mailbox, mailbox
from tests.support.running import running
from tests.support.transcript import Dialogue, play

HELLO = "S: 220 *\nC: EHLO client.test\nS: 250 *\n"
FIELDS = (
    "From: ann@ours.org\nSubject: lunch\nMessage-ID: <1@client.test>\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n\nhello\n."
)
SOON = {"first_retry": "20ms", "max_retry": "40ms"}


def mail(*recipients: str, sender: str = "ann@ours.org", dot: str = "S: 250 *") -> str:
    rcpts = "".join(f"C: RCPT TO:<{one}>\nS: 250 *\n" for one in recipients)
    content = "".join(f"C: {line}\n" for line in FIELDS.splitlines())
    return f"C: MAIL FROM:<{sender}>\nS: 250 *\n{rcpts}C: DATA\nS: 354 *\n{content}{dot}\n"


def tables(port: int, **more: Any) -> dict[str, Any]:
    hops = {"mailbox": {"host": ["127.0.0.1"], "port": port, "tls": "none"}}
    given: dict[str, Any] = {
        "listener": {
            "submission": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["@ours.org"]},
            "gateway": {"role": "gateway", "domains": ["ours.org"]},
        },
        "route": {"all": {"hop": "mailbox"}},
        "queue": SOON,
        **more,
    }
    return {**given, "hop": {**hops, **more.get("hop", {})}}


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with mailbox() as made:
        yield made


async def test_recipients_with_different_next_hops_are_settled_by_the_queue(box: Mailbox, tmp_path: Path) -> None:
    async with mailbox() as other:
        given = tables(
            box.port,
            route={"other": {"hop": "other", "recipient_domain": ["other.org"]}, "all": {"hop": "mailbox"}},
            hop={"other": {"host": ["127.0.0.1"], "port": other.port, "tls": "none"}},
        )
        async with running(given, tmp_path / "data") as relay:
            reply = await play(
                relay.port("submission"), HELLO + mail("bob@theirs.org", "carl@other.org", "dora@theirs.org")
            )
            assert reply.startswith("250 2.0.0 queued as ")
            await asyncio.gather(box.arrived.wait(), other.arrived.wait())
    assert [one.rcpt_tos for one in box.mails] == [["bob@theirs.org", "dora@theirs.org"]]
    assert [one.rcpt_tos for one in other.mails] == [["carl@other.org"]]


async def test_a_route_that_queues_says_250_before_the_hop_is_asked(box: Mailbox, tmp_path: Path) -> None:
    box.hold = asyncio.Event()
    given = tables(box.port, route={"all": {"hop": "mailbox", "mode": "queue"}})
    async with running(given, tmp_path / "data") as relay:
        reply = await play(relay.port("submission"), HELLO + mail("bob@theirs.org"))
        assert reply.startswith("250 2.0.0 queued as ")
        await box.arrived.wait()  # and the hop has not answered yet
        assert relay.of("forward.delivered") == []
        box.hold.set()
        await relay.until("forward.delivered")


async def test_a_hop_in_trouble_is_tried_again_where_the_route_says_so(tmp_path: Path) -> None:
    async with FakeHop({"greeting": [Reply("421 4.3.2 not now")] * 2}) as fake:
        given = tables(fake.port, route={"all": {"hop": "mailbox", "on_trouble": "queue"}})
        async with running(given, tmp_path / "data") as relay:
            reply = await play(relay.port("submission"), HELLO + mail("bob@theirs.org"))
            assert reply.startswith("250 2.0.0 queued as ")
            await relay.until("forward.delivered")
            await play(relay.port("submission"), HELLO + mail("bob@theirs.org", dot="S: 250 2.0.0 *"))
            assert len(relay.of("queue.kept")) == 1  # the second one was proxied: the hop is up


async def test_else_the_client_keeps_it(tmp_path: Path) -> None:
    async with FakeHop({"greeting": Reply("421 4.3.2 not now")}) as fake, running(tables(fake.port), tmp_path) as relay:
        await play(relay.port("submission"), HELLO + mail("bob@theirs.org", dot="S: 451 4.4.0 *"))
        assert relay.of("queue.kept") == []


async def test_recipients_that_disagree_each_get_what_is_theirs(tmp_path: Path) -> None:
    """RFC 5321 §6.1: delivered, deferred, and refused; of the refusal the sender hears in a report."""
    rcpts = [Reply("250 2.1.5 ok"), Reply("450 4.2.1 busy"), Reply("550 5.1.1 nobody")]
    async with FakeHop({"rcpt": rcpts}) as fake:
        given = tables(fake.port, route={"all": {"hop": "mailbox", "on_trouble": "queue"}})
        async with running(given, tmp_path / "data") as relay:
            reply = await play(
                relay.port("submission"), HELLO + mail("bob@theirs.org", "carl@theirs.org", "dora@theirs.org")
            )
            assert reply.startswith("250 2.0.0 queued as ")
            while len(relay.of("forward.delivered")) < 3:
                await relay.changed()
        delivered = [fact.values["to"] for fact in relay.of("forward.delivered")]
        assert sorted(delivered) == [["ann@ours.org"], ["bob@theirs.org"], ["carl@theirs.org"]]
        [report] = [content for content in fake.accepted if b"delivery-status" in content]
        assert b"dora@theirs.org" in report
        assert b"carl@theirs.org" not in report
        assert b"550 5.1.1 nobody" in report


async def test_a_refusal_that_all_share_is_the_clients_at_once(tmp_path: Path) -> None:
    async with FakeHop({"rcpt": Reply("550 5.1.1 nobody")}) as fake:
        given = tables(fake.port, route={"all": {"hop": "mailbox", "on_trouble": "queue"}})
        async with running(given, tmp_path / "data") as relay:
            await play(relay.port("submission"), HELLO + mail("bob@theirs.org", dot="S: 550 5.1.1 nobody*"))
            assert relay.of("queue.kept") == []


async def test_of_a_strangers_mail_a_refusal_is_told_in_the_session(tmp_path: Path) -> None:
    """No backscatter: where no report may be sent, the client hears it at its retry."""
    route = {"all": {"hop": "mailbox", "on_trouble": "queue"}}
    async with checked(tmp_path, route=route) as gateway:
        gateway.box.recipients["eve@ours.org"] = "550 5.1.1 nobody"
        rcpts = "C: RCPT TO:<bob@ours.org>\nS: 250 *\nC: RCPT TO:<eve@ours.org>\nS: {}\n"
        for told, dot in (("250 *", "451"), ("550 5.1.1 nobody", "250")):
            dialogue = await gateway.open(SPOOFER, "spoofed.example")
            await dialogue.play("C: MAIL FROM:<ann@easy.org>\nS: 250 *\n" + rcpts.format(told) + "C: DATA\nS: 354 *")
            dialogue.send(CONTENT.replace(b"ann@theirs.org", b"ann@easy.org") + b".\r\n")
            assert (await dialogue.reply()).startswith(dot)
            await dialogue.close()
        assert gateway.relay.of("queue.kept") == []


async def test_of_mail_whose_domain_owns_up_a_report_is_sent(tmp_path: Path) -> None:
    route = {"all": {"hop": "mailbox", "on_trouble": "queue"}}
    async with checked(tmp_path, route=route) as gateway:
        gateway.box.recipients["eve@ours.org"] = "550 5.1.1 nobody"
        dialogue = await gateway.open()
        await dialogue.play(
            "C: MAIL FROM:<ann@theirs.org>\nS: 250 *\nC: RCPT TO:<bob@ours.org>\nS: 250 *\n"
            "C: RCPT TO:<eve@ours.org>\nS: 250 *\nC: DATA\nS: 354 *"
        )
        dialogue.send(SIGNED + b".\r\n")
        assert (await dialogue.reply()).startswith("250 2.0.0 queued as")
        await dialogue.close()
        while len(gateway.box.mails) < 2:
            await gateway.relay.changed()
        assert [one.mail_from for one in gateway.box.mails] == ["ann@theirs.org", "<>"]
        assert gateway.box.mails[1].rcpt_tos == ["ann@theirs.org"]


# --- a client that vanished behind its dot ---------------------------------------------------------


async def vanish(port: int, script: str, box: Mailbox) -> None:
    """Play the session, and reset the connection once the hop has the message and before it answers."""
    dialogue = await Dialogue.open(port)
    await dialogue.play(script)
    await box.arrived.wait()
    await dialogue.leave()


async def test_its_identical_retry_hears_the_outcome_and_makes_no_second_copy(box: Mailbox, tmp_path: Path) -> None:
    box.hold = asyncio.Event()
    async with running(tables(box.port), tmp_path / "data") as relay:
        await vanish(relay.port("submission"), HELLO + mail("bob@theirs.org", dot=""), box)
        await relay.until("accept.closed")
        box.hold.set()
        await relay.until("accept.unheard")
        first = relay.of("accept.received")[0].id
        await play(relay.port("submission"), HELLO + mail("bob@theirs.org", dot=f"S: 250 2.0.0 stored [[]{first}]"))
        assert len(box.mails) == 1
        [duplicate] = relay.of("pipeline.duplicate")
        assert str(duplicate.values["reply"]).startswith("250 2.0.0")
        # Told once: the same again is a mail of its own.
        await play(relay.port("submission"), HELLO + mail("bob@theirs.org"))
        assert len(box.mails) == 2


async def test_unless_the_guard_is_off(box: Mailbox, tmp_path: Path) -> None:
    box.hold = asyncio.Event()
    async with running(tables(box.port, duplicates={"guard": False}), tmp_path / "data") as relay:
        await vanish(relay.port("submission"), HELLO + mail("bob@theirs.org", dot=""), box)
        await relay.until("accept.closed")
        box.hold.set()
        await relay.until("accept.unheard")
        await play(relay.port("submission"), HELLO + mail("bob@theirs.org"))
    assert len(box.mails) == 2


async def test_identical_alerts_of_clients_that_heard_are_two_mails(box: Mailbox, tmp_path: Path) -> None:
    async with running(tables(box.port), tmp_path / "data") as relay:
        for _ in range(2):
            await play(relay.port("submission"), HELLO + mail("bob@theirs.org"))
    assert len(box.mails) == 2


# --- roles (RFC 2142) --------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["gateway", "submission"])
async def test_roles_go_to_one_address_whatever_the_routes_say(box: Mailbox, tmp_path: Path, listener: str) -> None:
    (tmp_path / "recipients").write_text("bob@ours.org\n")
    async with mailbox() as operator:
        given = tables(
            box.port,
            hop={"ops": {"host": ["127.0.0.1"], "port": operator.port, "tls": "none"}},
            role_mailbox={"address": "ops@elsewhere.org", "hop": "ops"},
        )
        given["listener"]["gateway"]["recipients"] = str(tmp_path / "recipients")
        async with running(given, tmp_path / "data") as relay:
            roles = ("abuse@ours.org", "Postmaster@ours.org", "security@OURS.org")
            await play(relay.port(listener), HELLO + mail(*roles))
            assert [one.rcpt_tos for one in operator.mails] == [["ops@elsewhere.org"]]
            await play(relay.port(listener), HELLO + mail("bob@ours.org", "webmaster@ours.org"))
            await asyncio.gather(box.arrived.wait(), relay.until("queue.kept"))
            while len(operator.mails) < 2:
                await relay.changed()
    assert [one.rcpt_tos for one in box.mails] == [["bob@ours.org"]]


async def test_a_role_elsewhere_is_nobody_of_ours(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, role_mailbox={"address": "ops@elsewhere.org"})
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("submission"), HELLO + mail("abuse@theirs.org"))
    assert [one.rcpt_tos for one in box.mails] == [["abuse@theirs.org"]]

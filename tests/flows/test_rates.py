"""How much mail one client may hand over: above a rate it hears 4xx, and gets through again later."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import pytest

from tests.support.mailbox import Mailbox, mailbox
from tests.support.running import running
from tests.support.transcript import Dialogue, play

HELLO = """
S: 220 relay.test ESMTP*
C: EHLO client.test
S: 250 *
"""
LATER = "450 4.7.1 too many messages, try again later"
RCPT_LATER = "452 4.5.3 too many recipients, try again later"


def mail(sender: str = "ann@ours.org", reply: str = "250 *") -> str:
    return f"C: MAIL FROM:<{sender}>\nS: {reply}\n"


def rcpt(reply: str = "250 *", to: str = "bob@theirs.org") -> str:
    return f"C: RCPT TO:<{to}>\nS: {reply}\n"


CONTENT = "C: DATA\nS: 354 *\nC: From: ann@ours.org\nC:\nC: hello\nC: .\nS: 250 *\n"
RSET = "C: RSET\nS: 250 *\n"


def tables(port: int, **rates: dict[str, Any]) -> dict[str, Any]:
    submission = {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["@ours.org"]}
    return {
        "listener": {
            "submission": submission | {"allow_plaintext_login": True},
            "gateway": {"role": "gateway", "domains": ["theirs.org"]},
        },
        "rate": rates,
        "route": {"all": {"hop": "mailbox"}},
        "hop": {"mailbox": {"host": ["127.0.0.1"], "port": port, "tls": "none"}},
        "delay": {"error": "0 s"},
    }


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with mailbox() as made:
        yield made


async def test_messages_of_a_sender(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, sender={"per": "sender", "messages": 2})
    async with running(given, tmp_path / "data") as relay:
        two = HELLO + (mail() + rcpt() + CONTENT) * 2
        await play(relay.port("submission"), two + mail(reply=LATER) + mail("bob@ours.org"))
        # On another connection it is the same sender.
        await play(relay.port("submission"), HELLO + mail("Ann@OURS.org", LATER) + mail("", "250 *"))
        [fact, _] = relay.of("decide.rated")
        assert (fact.values["rate"], fact.values["per"], fact.level) == ("sender", "sender", "warning")
        assert b'relay_rate_limited_total{rate="sender"} 2.0' in relay.app.metrics.expose()
    assert len(box.mails) == 2


async def test_recipients_over_all_messages(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, sender={"per": "sender", "recipients": 3})
    async with running(given, tmp_path / "data") as relay:
        script = (
            mail() + rcpt() + rcpt(to="cat@theirs.org") + CONTENT + mail() + rcpt() + rcpt(RCPT_LATER) * 2 + CONTENT
        )
        # The recipient that was taken is served; the next message has none.
        await play(relay.port("submission"), HELLO + script + mail() + rcpt(RCPT_LATER) + "C: DATA\nS: 554 *")
    assert [len(envelope.rcpt_tos) for envelope in box.mails] == [2, 1]


async def test_a_refused_recipient_is_not_counted(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, sender={"per": "sender", "recipients": 1})
    async with running(given, tmp_path / "data") as relay:
        elsewhere = "C: RCPT TO:<x@elsewhere.org>\nS: 550 5.7.1 *\n"
        await play(relay.port("gateway"), HELLO + mail() + elsewhere * 5 + rcpt() + rcpt(RCPT_LATER))


async def test_messages_of_a_login_wherever_it_connects(box: Mailbox, tmp_path: Path) -> None:
    """A stolen password sends as much as its owner may, no more."""
    file = tmp_path / "logins"
    hashed = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
    file.write_text(f"app: {hashed} @ours.org\nother: {hashed} @ours.org\n")
    file.chmod(0o600)
    given = tables(box.port, login={"per": "login", "messages": 1}) | {"login": {"file": str(file)}}

    def logged_in(name: str) -> str:
        credentials = base64.b64encode(b"\0%s\0secret" % name.encode()).decode()
        return HELLO + f"C: AUTH PLAIN {credentials}\nS: 235 *\n"

    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("submission"), logged_in("app") + mail() + rcpt() + CONTENT + mail(reply=LATER))
        await play(relay.port("submission"), logged_in("app") + mail(reply=LATER))
        await play(relay.port("submission"), logged_in("other") + mail())
        # Who has no login is not spoken of.
        await play(relay.port("submission"), HELLO + (mail() + RSET) * 3)


async def test_only_the_listeners_named(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, gate={"per": "sender", "messages": 1, "listener": ["gateway"]})
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("submission"), HELLO + (mail() + RSET) * 3)
        await play(relay.port("gateway"), HELLO + mail() + RSET + mail(reply=LATER))


async def test_loopback_has_no_rate_by_address(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, ip={"per": "ip", "messages": 1})
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("gateway"), HELLO + (mail() + RSET) * 3)


async def test_messages_of_an_address_behind_a_load_balancer(box: Mailbox, tmp_path: Path) -> None:
    """An IPv6 client is its /64, whatever address of it he takes."""
    given = tables(box.port, ip={"per": "ip", "messages": 1}) | {"limit": {"exempt": ["192.0.2.0/24"]}}
    given["listener"]["gateway"]["proxy_from"] = ["127.0.0.0/8"]

    def from_(ip: str, to: str) -> str:
        return f"C: PROXY TCP{6 if ':' in ip else 4} {ip} {to} 40000 25\n" + HELLO

    async with running(given, tmp_path / "data") as relay:
        port, four, six = relay.port("gateway"), "198.51.100.25", "2001:db8:ffff::25"
        await play(port, from_("203.0.113.1", four) + mail())
        await play(port, from_("203.0.113.1", four) + mail(reply=LATER))
        await play(port, from_("203.0.113.2", four) + mail())
        await play(port, from_("2001:db8:1:2::1", six) + mail())
        await play(port, from_("2001:db8:1:2:ffff::9", six) + mail(reply=LATER))
        await play(port, from_("2001:db8:1:3::1", six) + mail())
        await play(port, from_("192.0.2.7", four) + (mail() + RSET) * 3)


async def test_counts_outlive_a_session_in_trouble_and_the_session_goes_on(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, sender={"per": "sender", "messages": 1})
    async with running(given, tmp_path / "data") as relay:
        dialogue = await Dialogue.open(relay.port("submission"))
        await dialogue.play(HELLO + mail() + RSET + mail(reply=LATER))
        # Nobody is locked out: the same session sends for another sender.
        await dialogue.play(mail("bob@ours.org") + rcpt() + CONTENT + "C: QUIT\nS: 221 *")
        await dialogue.close()
    assert len(box.mails) == 1

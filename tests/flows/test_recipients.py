"""Recipients at a gateway: from a file, from the next hop's own word, and none of the refused ever bounces."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.config.models import Config
from relay.errors import ConfigError
from tests.support.mailbox import Mailbox, mailbox
from tests.support.running import Running, running
from tests.support.transcript import Dialogue, play

HELLO = """
S: 220 relay.test ESMTP*
C: EHLO client.test
S: 250 *
C: MAIL FROM:<eve@theirs.org>
S: 250 2.1.0 *
"""
NOBODY = "550 5.1.1 no such recipient here"
CONTENT = "C: DATA\nS: 354 *\nC: Subject: x\nC:\nC: hello\nC: .\n"


def rcpt(address: str, reply: str) -> str:
    return f"C: RCPT TO:<{address}>\nS: {reply}\n"


def tables(port: int, **gateway: object) -> dict[str, Any]:
    return {
        "listener": {"gateway": {"role": "gateway", "domains": ["ours.org"], **gateway}},
        "route": {"all": {"hop": "mailbox"}},
        "hop": {"mailbox": {"host": ["127.0.0.1"], "port": port, "tls": "none"}},
        "limit": {"errors": 1000},
        "delay": {"error": "0 s"},
    }


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with mailbox() as made:
        yield made


def listed(folder: Path, text: str) -> Path:
    path = folder / "recipients"
    path.write_text(text)
    return path


async def test_a_file_says_who_there_is(box: Mailbox, tmp_path: Path) -> None:
    given = tables(box.port, recipients=listed(tmp_path, "ann@ours.org\n"), domains=["ours.org"])
    async with running({**given, "postmaster": "boss@ours.org"}, tmp_path / "data") as relay:
        await play(
            relay.port("gateway"),
            HELLO
            + rcpt("bob@ours.org", NOBODY)
            + rcpt("ann@theirs.org", "550 5.7.1 *")  # not of our domains: whether he is there is not ours to say
            + rcpt("ann+x@ours.org", NOBODY)
            + rcpt("Ann@OURS.org", "250 *")
            + rcpt("boss@ours.org", "250 *")
            + rcpt("postmaster@ours.org", "250 *")  # RFC 5321 §4.5.1
            + rcpt("Postmaster", "250 *")
            + CONTENT
            + "S: 250 *",
        )
    assert [mail.rcpt_tos for mail in box.mails] == [
        ["Ann@OURS.org", "boss@ours.org", "postmaster@ours.org"]  # the bare Postmaster is boss
    ]


async def test_a_bad_line_stops_the_start(tmp_path: Path) -> None:
    given = tables(25, recipients=listed(tmp_path, "ann@ours.org\nbob\n"))
    with pytest.raises(ConfigError, match="recipients: line 2: write an address"):
        async with running(given, tmp_path / "data"):
            pass


async def test_a_reload_reads_the_file_again_or_keeps_the_old(box: Mailbox, tmp_path: Path) -> None:
    path = listed(tmp_path, "ann@ours.org\n")
    given = tables(box.port, recipients=path)
    async with running(given, tmp_path / "data") as relay:
        again = Config.model_validate(
            {"hostname": "relay.test", "data": tmp_path / "data", "web": {"port": 0}, **given}
        )
        path.write_text("bob@ours.org\n")
        await relay.app.reload(again)
        now = HELLO + rcpt("ann@ours.org", NOBODY) + rcpt("bob@ours.org", "250 *")
        await play(relay.port("gateway"), now)
        path.write_text("bob\n")
        with pytest.raises(ConfigError, match="line 1"):
            await relay.app.reload(again)
        await play(relay.port("gateway"), now)


@pytest.fixture
async def relay(box: Mailbox, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tables(box.port, verify_recipients=True), tmp_path / "data") as made:
        yield made


async def test_the_next_hop_is_asked_at_rcpt_and_only_once(relay: Running, box: Mailbox) -> None:
    box.recipients["bob@ours.org"] = "550 5.1.1 <bob@ours.org> has left"
    script = HELLO + rcpt("bob@ours.org", NOBODY) + rcpt("ann@ours.org", "250 *") + CONTENT + "S: 250 *"
    await play(relay.port("gateway"), script)
    await play(relay.port("gateway"), script)
    assert [mail.rcpt_tos for mail in box.mails] == [["ann@ours.org"]] * 2
    asked = [(fact.values["hop"], fact.values["to"], fact.values["result"]) for fact in relay.of("decide.verified")]
    assert asked == [("mailbox", "bob@ours.org", "unknown"), ("mailbox", "ann@ours.org", "known")]


async def test_the_postmaster_is_never_asked_about(relay: Running, box: Mailbox) -> None:
    box.recipients["postmaster@ours.org"] = "550 5.1.1 who?"
    await play(relay.port("gateway"), HELLO + rcpt("postmaster@ours.org", "250 *") + rcpt("Postmaster", "250 *"))
    assert relay.of("decide.verified") == []


NOT_HIS_ABSENCE = ["450 4.2.1 try later", "452 4.2.2 full", "552 5.2.2 full", "550 5.7.1 not from this relay"]


@pytest.mark.parametrize("said", NOT_HIS_ABSENCE)
@pytest.mark.parametrize(("on_trouble", "reply"), [("accept", "250 *"), ("defer", "450 4.1.1 *")])
async def test_trouble_makes_nobody_unknown(
    box: Mailbox, tmp_path: Path, said: str, on_trouble: str, reply: str
) -> None:
    box.recipients["ann@ours.org"] = said
    given = tables(box.port, verify_recipients=True) | {"verify": {"on_trouble": on_trouble}}
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("gateway"), HELLO + rcpt("ann@ours.org", reply))
    assert [fact.values["result"] for fact in relay.of("decide.verified")] == ["unclear"]


async def test_a_hop_that_is_down_refuses_nobody(tmp_path: Path) -> None:
    given = tables(1, verify_recipients=True)  # nothing listens on port 1
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("gateway"), HELLO + rcpt("ann@ours.org", "250 *") + CONTENT + "S: 451 *")


async def test_a_file_comes_before_the_question(box: Mailbox, tmp_path: Path) -> None:
    box.recipients["ann@ours.org"] = "550 5.1.1 has left"
    given = tables(box.port, verify_recipients=True, recipients=listed(tmp_path, "ann@ours.org\ncarl@ours.org\n"))
    async with running(given, tmp_path / "data") as relay:
        script = rcpt("bob@ours.org", NOBODY) + rcpt("ann@ours.org", NOBODY) + rcpt("carl@ours.org", "250 *")
        await play(relay.port("gateway"), HELLO + script)
    assert [fact.values["to"] for fact in relay.of("decide.verified")] == ["ann@ours.org", "carl@ours.org"]


async def test_an_inbox_knows_everybody(tmp_path: Path) -> None:
    given = tables(1, verify_recipients=True)
    given["hop"]["mailbox"] = {"kind": "inbox"}
    async with running(given, tmp_path / "data") as relay:
        await play(relay.port("gateway"), HELLO + rcpt("whoever@ours.org", "250 *") + CONTENT + "S: 250 *")


@pytest.mark.parametrize("by", ["file", "hop", "domain"])
async def test_refused_mail_is_refused_in_session_and_never_bounces(box: Mailbox, tmp_path: Path, by: str) -> None:
    """R13: 200 mails to refused recipients: 200 refusals, and not one mail to anybody."""
    names = [f"u{n}@{'theirs.org' if by == 'domain' else 'ours.org'}" for n in range(200)]
    box.recipients.update(dict.fromkeys(names, "550 5.1.1 no such user"))
    given = tables(box.port, verify_recipients=by == "hop")
    if by == "file":
        given["listener"]["gateway"]["recipients"] = listed(tmp_path, "ann@ours.org\n")
    refusal = "550 5.7.1 *" if by == "domain" else NOBODY
    async with running(given, tmp_path / "data") as relay:

        async def client(share: list[str]) -> None:
            dialogue = await Dialogue.open(relay.port("gateway"))
            await dialogue.play(HELLO.partition("C: MAIL")[0])
            for name in share:
                transaction = "C: MAIL FROM:<victim@theirs.org>\nS: 250 *\n" + rcpt(name, refusal)
                await dialogue.play(transaction + "C: DATA\nS: 554 5.5.1 no valid recipients\nC: RSET\nS: 250 *")
            await dialogue.play("C: QUIT\nS: 221 *")
            await dialogue.close()

        # As many clients as the hop is asked questions at once: none falls to `on_trouble`.
        await asyncio.gather(*(client(names[n::5]) for n in range(5)))
        refused = [fact.values["to"] for fact in relay.of("accept.rejected") if fact.values["stage"] == "rcpt"]
        assert sorted(map(str, refused)) == sorted(names)
        assert [event for event in relay.events() if event.startswith("forward.") and "connected" not in event] == []
    assert box.mails == []

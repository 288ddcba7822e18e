"""What checks may cost: when DNS is asked, when it no longer is, and how a message fares when it does not answer."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from relay.authenticate.spf import check_mail_from
from relay.envelope import Envelope
from relay.verdict import SpfVerdict
from tests.support.checked import CONTENT, SIGNED, SPOOFER, ZONE, checked, results
from tests.support.dkim_signer import arc_sealed, dkim_signed
from tests.support.dns import Asked
from tests.support.transcript import play

MAIL = "C: MAIL FROM:<ann@theirs.org>\nS: 250 *\n"
RCPT = "C: RCPT TO:<bob@ours.org>\nS: 250 *\n"
ANY_ERRORS: dict[str, Any] = {"limit": {"errors": 1000, "junk": 1000}, "delay": {"error": "0 s"}}


# --- when SPF begins ----------------------------------------------------------------------------


async def test_spf_goes_beside_the_upload_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked_for: list[str] = []

    async def counted(ip: Any, sender: str, *rest: Any) -> SpfVerdict:
        checked_for.append(sender)
        return await check_mail_from(ip, sender, *rest)

    monkeypatch.setattr("relay.authenticate.check.spf.check_mail_from", counted)
    async with checked(tmp_path) as one:
        one.dns.answering.clear()
        dialogue = await one.open()
        await dialogue.play(MAIL + RCPT)
        await one.dns.asked.wait()
        assert one.dns.questions == [("theirs.org", "TXT")]
        await dialogue.play(RCPT + "C: DATA\nS: 354 *")  # a second recipient begins nothing
        one.dns.answering.set()
        dialogue.send(SIGNED + b".\r\n")
        assert (await dialogue.reply()).startswith("250 ")
        await dialogue.close()
        assert one.dns.questions.count(Asked("theirs.org", "TXT")) == 1
        assert results(one.box.contents[0])["spf"] == "pass"
        assert checked_for == ["ann@theirs.org"]
        assert one.gateway._early == {}


NO_MAIL = {
    "idle": "",
    "no recipient": MAIL,
    "200 refused recipients": MAIL + "C: RCPT TO:<bob@others.org>\nS: 550 5.7.1 *\n" * 200,
    "refused, and DATA": MAIL + "C: RCPT TO:<bob@others.org>\nS: 550 5.7.1 *\nC: DATA\nS: 554 *",
    "20 transactions": (MAIL + "C: RSET\nS: 250 *\n") * 20,
}


@pytest.mark.parametrize("name", NO_MAIL)
async def test_what_brings_no_mail_costs_no_dns(tmp_path: Path, name: str) -> None:
    async with checked(tmp_path, **ANY_ERRORS) as one:
        dialogue = await one.open()
        await dialogue.play(NO_MAIL[name])
        # Whatever had been asked before this recipient would stand in front of his question.
        await dialogue.play("C: RSET\nS: 250 *\nC: MAIL FROM:<eve@spoofer.org>\nS: 250 *\n" + RCPT)
        await one.dns.asked.wait()
        assert one.dns.questions[0] == ("spoofer.org", "TXT")
        await dialogue.close()


async def test_recipients_whom_the_hop_refuses_cost_no_dns(tmp_path: Path) -> None:
    gateway = {"role": "gateway", "domains": ["ours.org"], "proxy_from": ["127.0.0.0/8"], "verify_recipients": True}
    async with checked(tmp_path, listener={"gateway": gateway}) as one:
        one.box.recipients["bob@ours.org"] = "550 5.1.1 no such user"
        dialogue = await one.open()
        await dialogue.play(MAIL + RCPT.replace("250", "550 5.1.1"))
        assert one.gateway._early == {}
        await dialogue.play(RCPT.replace("bob", "cat"))
        assert len(one.gateway._early) == 1
        await dialogue.close()


ENDS = {
    "RSET": "C: RSET\nS: 250 *",
    "EHLO": "C: EHLO mail.theirs.org\nS: 250 *",
    "QUIT": "C: QUIT\nS: 221 *",
    "gone": "C: ...",
    "gone while sending": "C: DATA\nS: 354 *\nC: Subject: x\nC: ...",
    "gone while sending chunks": "C: BDAT 3\nC: x\nS: 250 *\nC: ...",
    "refused content": "C: DATA\nS: 354 *\nC:  begins with white space\nC:\nC: .\nS: 550 *",
}


@pytest.mark.parametrize("end", ENDS)
async def test_early_spf_ends_with_its_transaction(tmp_path: Path, end: str) -> None:
    async with checked(tmp_path) as one:
        one.dns.answering.clear()
        dialogue = await one.open()
        await dialogue.play(MAIL + RCPT)
        await one.dns.asked.wait()
        [early] = one.gateway._early.values()
        await dialogue.play(ENDS[end])
        await asyncio.wait([early.verdict])  # as the answers are held back, it can only have been cancelled
        assert early.verdict.cancelled()
        assert one.gateway._early == {}
        one.dns.answering.set()
        await dialogue.close()
        # What it asked is nobody's trouble: the next message has its own.
        assert (await one.send(SIGNED)).startswith("250 ")
        assert results(one.box.contents[0])["spf"] == "pass"


async def test_early_spf_ends_with_the_relay(tmp_path: Path) -> None:
    async with checked(tmp_path) as one:
        one.dns.answering.clear()
        dialogue = await one.open()
        await dialogue.play(MAIL + RCPT)
        await one.dns.asked.wait()
        [early] = one.gateway._early.values()
    assert early.verdict.cancelled()
    await dialogue.close()


async def test_a_client_that_leaves_behind_its_dot_takes_no_check_along(tmp_path: Path) -> None:
    async with checked(tmp_path) as one:
        one.dns.answering.clear()
        dialogue = await one.open()
        await dialogue.play(MAIL + RCPT + "C: DATA\nS: 354 *")
        dialogue.send(SIGNED + b".\r\n")
        while ("_dmarc.theirs.org", "TXT") not in one.dns.questions:  # the checks have begun
            one.dns.asked.clear()
            await one.dns.asked.wait()
        await dialogue.leave()
        await one.relay.until("accept.closed")
        one.dns.answering.set()
        await one.box.arrived.wait()
        assert results(one.box.contents[0])["spf"] == "pass"


async def test_spf_that_a_message_waits_for_does_not_end_with_its_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session may be ended from outside while its message is judged."""
    async with checked(tmp_path) as one:
        one.dns.answering.clear()
        envelopes: list[Envelope] = []
        begin = one.gateway.begin

        def begun(envelope: Envelope) -> None:
            envelopes.append(envelope)
            begin(envelope)

        monkeypatch.setattr(one.gateway, "begin", begun)
        sending = asyncio.create_task(one.send(SIGNED))
        while ("_dmarc.theirs.org", "TXT") not in one.dns.questions:  # the checks have begun
            one.dns.asked.clear()
            await one.dns.asked.wait()
        one.gateway.forget(*envelopes)
        one.dns.answering.set()
        assert (await sending).startswith("250 ")
        assert results(one.box.contents[0])["spf"] == "pass"


async def test_many_recipients_and_transactions_leave_nothing_behind(tmp_path: Path) -> None:
    async with checked(tmp_path, **ANY_ERRORS) as one:
        one.dns.answering.clear()
        dialogue = await one.open()
        before = asyncio.all_tasks()
        await dialogue.play((MAIL + RCPT * 3 + "C: RSET\nS: 250 *\n") * 20)
        await one.dns.asked.wait()
        assert one.dns.questions == [("theirs.org", "TXT")]
        assert one.gateway._early == {}
        one.dns.answering.set()
        await asyncio.wait(asyncio.all_tasks() - before)  # nothing of it runs on for ever
        await dialogue.close()


# --- checks that come to nothing ----------------------------------------------------------------


async def crash(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


async def test_a_bug_in_a_check_is_a_temperror_and_the_mail_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.authenticate.check.spf.check_mail_from", crash)
    async with checked(tmp_path) as one:
        assert (await one.send(SIGNED)).startswith("250 ")
        told = results(one.box.contents[0])
        assert (told["spf"], told["dkim"], told["dmarc"]) == ("temperror", "pass", "pass")
        [trouble] = one.relay.of("authenticate.trouble")
        assert (trouble.id, trouble.values["check"], trouble.level) == (one.id, "spf", "error")


async def test_a_bug_in_spf_that_nobody_waits_for_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself would write it to standard error, past the log."""
    monkeypatch.setattr("relay.authenticate.check.spf.check_mail_from", crash)
    stray: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: stray.append(context))
    async with checked(tmp_path) as one:
        dialogue = await one.open()
        await dialogue.play(MAIL + RCPT)
        [early] = one.gateway._early.values()
        await asyncio.wait([early.verdict])
        del early
        await dialogue.play("C: RSET\nS: 250 *\n")
        gc.collect()
        await dialogue.close()
    assert stray == []


SHORT: dict[str, Any] = {"timeout": {"dns": "0.2 s", "checks": "0.6 s", "client_patience": "20 s"}}


@pytest.mark.parametrize(
    ("policy", "reply"),
    [
        ({}, "250 "),
        ({"dmarc": {"temperror": "defer"}}, "451 4.7.26 "),
        ({"spf": {"temperror": "defer"}}, "451 4.7.24 "),
    ],
)
async def test_dns_that_is_silent_refuses_nobody(tmp_path: Path, policy: dict[str, Any], reply: str) -> None:
    async with checked(tmp_path, policy=policy, **SHORT) as one:
        one.dns.answering.clear()
        said = await one.send(SIGNED)
        assert said.startswith(reply), said
        for arrived in one.box.contents:
            told = results(arrived)
            assert set(told.values()) == {"temperror"}
            assert set(told) == {"dmarc", "spf", "iprev", "dkim"}
        one.dns.answering.set()


async def test_while_dns_is_silent_other_mail_goes_on(tmp_path: Path) -> None:
    long: dict[str, Any] = {"timeout": {"dns": "100 s", "checks": "200 s", "client_patience": "300 s"}}
    async with checked(tmp_path, policy={"skip": ["203.0.113.0/24"]}, **long) as one:
        one.dns.answering.clear()
        waiting = asyncio.create_task(one.send(SIGNED))
        await one.dns.asked.wait()
        assert (await one.spoof()).startswith("250 ")
        content = "C: DATA\nS: 354 *\nC: From: ann@theirs.org\nC:\nC: x\nC: .\nS: 250 *"
        await play(one.relay.port("submission"), "S: 220 *\nC: EHLO client.test\nS: 250 *\n" + MAIL + RCPT + content)
        assert len(one.box.mails) == 2
        assert not waiting.done()
        one.dns.answering.set()
        assert (await waiting).startswith("250 ")


# --- bombs (R25) --------------------------------------------------------------------------------

MX = {f"h{n}-{m}.bomb.org": [{"A": f"198.18.{n}.{m}"}] for n in range(10) for m in range(10)}
BOMBS: dict[str, tuple[dict[str, list[Any]], str]] = {
    # RFC 7208 §4.6.4: the eleventh term
    "includes": (
        {f"i{n}.bomb.org": [{"TXT": f"v=spf1 include:i{n + 1}.bomb.org -all"}] for n in range(20)}
        | {"bomb.org": [{"TXT": "v=spf1 include:i0.bomb.org -all"}]},
        "permerror",
    ),
    "a loop": ({"bomb.org": [{"TXT": "v=spf1 include:bomb.org -all"}]}, "permerror"),
    "voids": ({"bomb.org": [{"TXT": "v=spf1 a:x1.bomb.org a:x2.bomb.org a:x3.bomb.org -all"}]}, "permerror"),
    # Within the limits of the RFC, over those of one message.
    "a hundred hosts": (
        {"bomb.org": [{"TXT": "v=spf1 " + " ".join(f"mx:m{n}.bomb.org" for n in range(10)) + " -all"}]}
        | {f"m{n}.bomb.org": [{"MX": [m, f"h{n}-{m}.bomb.org"]} for m in range(10)] for n in range(10)}
        | MX,
        "temperror",
    ),
}


def signatures(content: bytes, count: int) -> bytes:
    for number in range(count):
        content = dkim_signed(content, {"d": f"d{number}.bomb.org", "s": f"s{number}"})
    return content


def seals(content: bytes, count: int) -> bytes:
    for number in range(1, count + 1):
        tags = {"d": f"a{number}.bomb.org", "s": f"s{number}"}
        content = arc_sealed(content, number, signature=tags, seal={**tags, "s": f"t{number}"})
    return content


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_costs_50_questions_and_no_other_check_its_result(tmp_path: Path, name: str) -> None:
    zone, result = BOMBS[name]
    content = seals(signatures(SIGNED, 20), 12)
    async with checked(tmp_path, {**ZONE, **zone}) as one:
        await one.send(content, SPOOFER, "eve@bomb.org", "bomb.org")
        assert 0 < len(one.dns.questions) <= 50
        told = results(one.box.contents[0])
        assert told["spf"] == result
        assert told["iprev"] == "permerror"
        [fact] = one.relay.of("authenticate.checked")
        assert int(str(fact.values["queries"])) <= 50
        # The next one's mail is judged as ever.
        assert (await one.send(SIGNED)).startswith("250 ")
        assert results(one.box.contents[1]) == {"dmarc": "pass", "spf": "pass", "iprev": "pass", "dkim": "pass"}


async def test_silent_domains_cost_no_other_mail_its_results(tmp_path: Path) -> None:
    """The name server is the same one: that it says nothing about some names is not held against it."""
    silent: dict[str, list[Any]] = {
        f"{name}silent{n}.org": ["TIMEOUT"] for n in range(8) for name in ("", "_dmarc.", "r._domainkey.")
    }
    async with checked(tmp_path, ZONE | silent, timeout={"dns": "1 s", "checks": "3 s"}) as one:

        async def bomb(domain: str) -> str:
            content = dkim_signed(CONTENT.replace(b"@theirs.org", f"@{domain}".encode()), {"d": domain})
            return await one.send(content, SPOOFER, f"eve@{domain}", domain)

        bombs = [asyncio.create_task(bomb(f"silent{n}.org")) for n in range(8)]
        await one.dns.asked.wait()
        assert (await one.send(SIGNED)).startswith("250 ")
        assert results(one.box.contents[0]) == {"dmarc": "pass", "spf": "pass", "iprev": "pass", "dkim": "pass"}
        assert all(said.startswith("250 ") for said in await asyncio.gather(*bombs))
        for arrived in one.box.contents[1:]:
            told = results(arrived)
            assert (told["dmarc"], told["spf"], told["dkim"]) == ("temperror",) * 3

"""Mail from the world, checked: what becomes of it, and what it says when it arrives."""

from __future__ import annotations

import asyncio
import fnmatch
from pathlib import Path
from typing import Any

import pytest

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.sign import seal
from relay.report.journal import FILE_NAME, story
from relay.verdict import DmarcResult, DmarcVerdict
from tests.support.checked import CONTENT, LIST, OWN, SIGNED, SPOOFER, ZONE, Checked, checked, names, results
from tests.support.dkim_signer import dkim_signed, rsa_key
from tests.support.mail import split
from tests.support.mailbox import mailbox
from tests.support.verdicts import signed, verdicts

REFUSED = "550 5.7.26 *DMARC*theirs.org*"
QUARANTINE, MARK = "X-Relay-Quarantine", "X-Relay-Mark"
ADDED = ["Authentication-Results", "Received"]


async def metrics(checked: Checked) -> str:
    host, _, port = str(checked.relay.of("app.started")[0].values["web"]).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    page = await reader.read()
    writer.close()
    return page.decode()


async def test_mail_of_its_author_goes_through_and_says_so(tmp_path: Path) -> None:
    async with checked(tmp_path) as one:
        assert await one.send(SIGNED) == f"250 2.0.0 stored [{one.id}]"
        [arrived] = one.box.contents
        assert arrived.endswith(SIGNED)
        assert names(arrived) == [*ADDED, *names(SIGNED)]
        assert results(arrived) == {"dmarc": "pass", "spf": "pass", "iprev": "pass", "dkim": "pass"}
        field = split(arrived)[0][0]
        for said in (b"smtp.mailfrom=ann@theirs.org", b"header.from=theirs.org", b"header.d=theirs.org", OWN.encode()):
            assert said in field
        assert (one.decision["action"], one.decision["applied"]) == ("accept", "accept")


# The author's domain, what is configured, the reply, and the field that says what was thought of the mail.
SPOOFS: list[tuple[str, dict[str, Any], str, str]] = [
    ("theirs.org", {}, "250 *", QUARANTINE),  # RFC 9989 §7.4: no reject on the ground of p=reject alone
    ("theirs.org", {"dmarc": {"reject": True}}, REFUSED, ""),
    ("theirs.org", {"dmarc": {"quarantine": "accept"}}, "250 *", ""),
    ("theirs.org", {"mode": "monitor", "dmarc": {"reject": True}}, "250 *", ""),
    ("careful.org", {}, "250 *", QUARANTINE),
    ("careful.org", {"dmarc": {"reject": True}}, "250 *", QUARANTINE),
    ("careful.org", {"dmarc": {"quarantine": "mark"}}, "250 *", MARK),
    ("careful.org", {"dmarc": {"quarantine": "defer"}}, "451 4.7.26 *DMARC*", ""),
    ("careful.org", {"dmarc": {"quarantine": "refuse"}}, "550 5.7.26 *DMARC*", ""),
    ("careful.org", {"mode": "monitor", "dmarc": {"quarantine": "defer"}}, "250 *", ""),
    ("easy.org", {"dmarc": {"reject": True, "quarantine": "refuse"}}, "250 *", ""),  # RFC 9989 §5.4
    ("nobody.org", {}, "250 *", ""),
    ("nobody.org", {"dmarc": {"none": "mark"}}, "250 *", MARK),
    ("broken.org", {}, "250 *", ""),
    ("broken.org", {"dmarc": {"temperror": "defer"}}, "451 4.7.26 *DMARC temperror*", ""),
]
FOUND = {"nobody.org": "none", "broken.org": "temperror"}


@pytest.mark.parametrize(("domain", "policy", "reply", "field"), SPOOFS)
async def test_spoofs(tmp_path: Path, domain: str, policy: dict[str, Any], reply: str, field: str) -> None:
    async with checked(tmp_path, policy=policy) as one:
        said = await one.spoof(f"ann@{domain}")
        assert fnmatch.fnmatchcase(said, reply), said
        assert said.endswith(f"[{one.id}]")
        assert len(one.box.mails) == said.startswith("250")
        for arrived in one.box.contents:
            top, received = ADDED
            assert names(arrived) == [top, *([field] if field else []), received, *names(CONTENT)]
            assert results(arrived) == {
                "dmarc": FOUND.get(domain, "fail"),
                "spf": "pass",
                "iprev": "permerror",
                "dkim": "none",
            }


async def test_monitor_decides_and_tells_and_does_nothing(tmp_path: Path) -> None:
    async with checked(tmp_path, policy={"mode": "monitor", "dmarc": {"reject": True}}) as one:
        await one.spoof()
        assert (one.decision["action"], one.decision["applied"]) == ("refuse", "accept")
        assert one.decision["rule"] == "policy.dmarc.reject"
        counted = 'relay_decisions_total{action="refuse",applied="accept",rule="policy.dmarc.reject"} 1.0'
        assert counted in await metrics(one)


async def test_shadow_rules_are_only_compared(tmp_path: Path) -> None:
    async with checked(tmp_path, shadow={"dmarc": {"reject": True}}) as one:
        assert (await one.spoof()).startswith("250 ")
        assert QUARANTINE in names(one.box.contents[0])
        [fact] = one.relay.of("decide.shadow")
        assert (fact.id, fact.values["difference"], fact.values["rule"]) == (
            one.id,
            "quarantine to refuse",
            "policy.dmarc.reject",
        )
        await one.send(SIGNED)
        assert len(one.relay.of("decide.shadow")) == 1
        assert 'relay_shadow_differences_total{difference="quarantine to refuse"} 1.0' in await metrics(one)


async def test_quarantined_mail_may_have_a_hop_of_its_own(tmp_path: Path) -> None:
    async with mailbox() as other:
        box = {"host": ["127.0.0.1"], "tls": "none"}
        async with mailbox() as usual:
            hops = {"mailbox": {**box, "port": usual.port}, "quarantine": {**box, "port": other.port}}
            async with checked(tmp_path, hop=hops, policy={"quarantine_hop": "quarantine"}) as one:
                await one.spoof()
                await one.send(SIGNED)
                assert QUARANTINE in names(other.contents[0])
                assert [QUARANTINE in names(arrived) for arrived in usual.contents] == [False]


async def test_a_gateway_promises_no_more_than_its_quarantine_takes(tmp_path: Path) -> None:
    async with mailbox(smtputf8=False) as other, mailbox() as usual:
        box = {"host": ["127.0.0.1"], "tls": "none"}
        hops = {"mailbox": {**box, "port": usual.port}, "quarantine": {**box, "port": other.port}}
        async with checked(tmp_path, hop=hops, policy={"quarantine_hop": "quarantine"}) as one:
            dialogue = await one.open()
            said = await dialogue.play("C: EHLO mail.theirs.org\nS: 250 *")
            await dialogue.close()
            assert "SMTPUTF8" not in said
            assert "8BITMIME" in said


async def test_forwarded_mail_lives_by_its_signature(tmp_path: Path) -> None:
    async with checked(tmp_path, policy={"dmarc": {"reject": True}, "spf": {"fail": "refuse"}}) as one:
        assert (await one.send(SIGNED, LIST, helo="list.org")).startswith("250 ")
        [arrived] = one.box.contents
        assert names(arrived) == [*ADDED, *names(SIGNED)]
        told = results(arrived)
        assert (told["dmarc"], told["spf"], told["dkim"]) == ("pass", "fail", "pass")


async def test_an_spf_fail_alone_is_marked(tmp_path: Path) -> None:
    async with checked(tmp_path) as one:
        content = CONTENT.replace(b"ann@theirs.org", b"ann@nobody.org")
        await one.send(content, SPOOFER, "ann@theirs.org", "spoofer.org")
        [arrived] = one.box.contents
        assert names(arrived)[1] == MARK
        assert b"SPF fail for theirs.org" in split(arrived)[0][1]


async def test_a_bounce_stands_on_the_name_of_its_client(tmp_path: Path) -> None:
    """RFC 7208 §2.4: postmaster@HELO is who sent it; and its domain is the author's."""
    async with checked(tmp_path, policy={"dmarc": {"reject": True}}) as one:
        assert (await one.send(CONTENT, sender="")).startswith("250 ")
        field = split(one.box.contents[0])[0][0]
        assert b"smtp.helo=mail.theirs.org" in field
        assert b"smtp.mailfrom" not in field
        assert results(one.box.contents[0])["dmarc"] == "pass"


async def test_what_a_domain_explains_stands_in_no_reply(tmp_path: Path) -> None:
    """It is the spoofer's own text (RFC 7208 §11.5)."""
    zone = ZONE | {
        "evil.org": [{"TXT": "v=spf1 exp=why.evil.org -all"}],
        "why.evil.org": [{"TXT": "call +1 900 for a delisting"}],
    }
    async with checked(tmp_path, zone, policy={"spf": {"fail": "refuse"}}) as one:
        said = await one.send(CONTENT, SPOOFER, "eve@evil.org", "spoofer.org")
        # RFC 7372 §3.4: DMARC asks for less than SPF does, so it is one check that refuses, with its own code (§3.2).
        assert said == f"550 5.7.23 SPF fail for evil.org [{one.id}]"


FOREIGN = CONTENT.replace(b"Subject: hello", b"Subject: [list] hello")
SEALED = seal(
    FOREIGN,
    SigningKey("list.org", "l", Algorithm.RSA, rsa_key()),
    verdicts(spf="pass", dkim=[signed("theirs.org")], dmarc=DmarcVerdict(DmarcResult.PASS, "theirs.org")),
    "list.org",
)
TRUST: list[tuple[bytes, dict[str, Any], str]] = [
    (FOREIGN, {}, ""),
    (FOREIGN, {"forwarder": {"list": {"network": ["198.51.100.0/24"]}}}, "policy.forwarder.list"),
    (FOREIGN, {"forwarder": {"list": {"network": ["192.0.2.0/24"]}}}, ""),
    (SEALED, {}, ""),
    (SEALED, {"trusted_sealers": ["list.org"]}, "policy.trusted_sealers"),
    (SEALED, {"trusted_sealers": ["theirs.org"]}, ""),
]


@pytest.mark.parametrize(("content", "policy", "rule"), TRUST)
async def test_what_a_mailing_list_changed(tmp_path: Path, content: bytes, policy: dict[str, Any], rule: str) -> None:
    """The mail no longer verifies: refused, unless who passed it on is trusted."""
    async with checked(tmp_path, policy={"dmarc": {"reject": True}, **policy}) as one:
        said = await one.send(content, LIST, "bounce@list.org", "list.org")
        if not rule:
            assert fnmatch.fnmatchcase(said, REFUSED), said
            return
        [arrived] = one.box.contents
        assert names(arrived) == [*ADDED, *names(content)]
        told = results(arrived)
        assert (told["dmarc"], told.get("arc")) == ("fail", "pass" if content is SEALED else None)
        assert one.decision["rule"] == rule
        # RFC 9990 §3.1.1.4: why the author's policy was not followed.
        override = "trusted_forwarder" if content is FOREIGN else "local_policy"
        assert one.decision["override"] == override
        assert override.encode() in split(arrived)[0][0]


AUTHORS = [
    b"From: ann@theirs.org, eve@spoofer.org\r\n",
    b"From: ann@theirs.org\r\nFrom: eve@spoofer.org\r\n",
    b"From: Ann\r\n",
    b"",
]


@pytest.mark.parametrize("author", AUTHORS)
async def test_without_one_author_strict_refuses_and_tag_tells(tmp_path: Path, author: bytes) -> None:
    """RFC 9989 §5.3.1: nobody's policy can be asked for."""
    content = CONTENT.replace(b"From: Ann <ann@theirs.org>\r\n", author)
    async with checked(tmp_path / "strict") as one:
        said = await one.send(content)
        assert fnmatch.fnmatchcase(said, "550 5.6.0 *")
        assert said.endswith(f"[{one.id}]")
        assert one.box.mails == []
    async with checked(tmp_path / "tag", policy={"author": "tag"}) as one:
        assert (await one.send(content)).startswith("250 ")
        assert results(one.box.contents[0])["dmarc"] == "permerror"


async def test_who_is_skipped_costs_no_dns(tmp_path: Path) -> None:
    async with checked(tmp_path, policy={"skip": ["203.0.113.0/24"], "dmarc": {"reject": True}}) as one:
        assert (await one.spoof()).startswith("250 ")
        [arrived] = one.box.contents
        assert split(arrived)[0][0] == b"Authentication-Results: relay.test; none"
        assert names(arrived) == [*ADDED, *names(CONTENT)]
        assert one.decision["rule"] == "policy.skip"
        await one.send(SIGNED)  # a question of the first mail would have come before those of this one
        assert not [asked for asked in one.dns.questions if "spoofer" in asked.name or "203" in asked.name]


FORGED = (
    b"Authentication-Results: relay.test; dmarc=pass header.from=theirs.org\r\n"
    b"authentication-results: (x) RELAY.test\r\n\t1; spf=pass\r\n"
    b"X-Relay-Quarantine: no\r\nX-RELAY-MARK: no\r\n"
)
KEPT = b"Authentication-Results: list.org; spf=pass\r\n"


async def test_what_only_we_may_write_is_removed(tmp_path: Path) -> None:
    async with checked(tmp_path, policy={"dmarc": {"quarantine": "accept"}}) as one:
        await one.send(FORGED + KEPT + CONTENT, SPOOFER, "eve@spoofer.org", "spoofer.org")
        [arrived] = one.box.contents
        assert names(arrived) == [*ADDED, "Authentication-Results", *names(CONTENT)]
        assert results(arrived)["dmarc"] == "fail"
        assert arrived.endswith(KEPT + CONTENT)


async def test_a_signature_on_what_is_removed_is_verified_before(tmp_path: Path) -> None:
    fields = {"d": "theirs.org", "h": "from:to:subject:date:authentication-results:x-relay-mark"}
    mail = dkim_signed(FORGED.partition(b"authentication")[0] + b"X-Relay-Mark: no\r\n" + CONTENT, fields)
    async with checked(tmp_path) as one:
        await one.send(mail, LIST)
        [arrived] = one.box.contents
        assert results(arrived)["dkim"] == "pass"
        assert names(arrived) == [*ADDED, "DKIM-Signature", *names(CONTENT)]


@pytest.mark.parametrize("policy", [{}, {"dmarc": {"reject": True}}])
async def test_the_journal_can_tell_of_it(tmp_path: Path, policy: dict[str, Any]) -> None:
    async with checked(tmp_path, policy=policy) as one:
        await one.spoof()
    told: dict[str, Any] = {fact.event: fact.values for _, fact in story(tmp_path / FILE_NAME, one.id)}
    assert told["authenticate.explained"]["dmarc"]["record"] == ZONE["_dmarc.theirs.org"][0]["TXT"]
    assert told["decide.decided"]["action"] == ("refuse" if policy else "quarantine")
    assert "pipeline.answered" in told

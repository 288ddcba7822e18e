"""A report on its whole way: what the client asked for, what the hop said, what comes back to the client, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.publish.keys import dns_name, dns_record, new_key
from tests.support.dkim_verifiers import dkimpy
from tests.support.fake_hop import EXTENSIONS, FakeHop, Reply
from tests.support.queue_file import emptied
from tests.support.reports import Read, read
from tests.support.running import Running, running
from tests.support.transcript import play

HOSTNAME = "relay.test"
NOBODY = Reply("550 5.1.1 nobody")
HEADER = (
    "C: From: sue@ours.test\nC: Subject: lunch\nC: Message-ID: <1@ours.test>\nC: Date: 22 Nov 2026 10:00:00 +0000\n"
)


def tables(out: FakeHop, back: FakeHop, **more: Any) -> dict[str, Any]:
    """Mail goes to `out`, reports go to `back`."""
    hops = {
        name: {"host": ["127.0.0.1"], "port": hop.port, "tls": "none"} for name, hop in (("out", out), ("back", back))
    }
    return {
        "hostname": HOSTNAME,
        "listener": {"in": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}},
        "route": {"all": {"hop": "out", "mode": "queue"}},
        "hop": hops,
        "bounce": {"hop": "back"},
        **more,
    }


async def submit(relay: Running, mail: str, *rcpts: str, body: str = "C: hello\n") -> None:
    """mail, rcpts: the arguments of MAIL FROM: and RCPT TO:."""
    lines = "".join(f"C: RCPT TO:{one}\nS: 250 *\n" for one in rcpts)
    await play(
        relay.port("in"),
        f"S: 220 *\nC: EHLO client.test\nS: 250 *\nC: MAIL FROM:{mail}\nS: 250 *\n{lines}C: DATA\nS: 354 *\n"
        f"{HEADER}C:\n{body}C: .\nS: 250 2.0.0 queued as *\nC: QUIT\nS: 221 *\n",
    )


def reported(back: FakeHop) -> tuple[list[bytes], Read]:
    """The commands of the only transaction that `back` had, and its content."""
    (content,) = back.accepted
    return [line for line in back.commands if line[:4] in (b"MAIL", b"RCPT")], read(content)


async def test_what_was_asked_for_is_answered(tmp_path: Path) -> None:
    """RFC 3461: ENVID, ORCPT, NOTIFY and RET=HDRS, with a hop that refuses one of two in words of its own."""
    refusal = Reply("550-5.1.1 <b\x1bob@theirs.test>:\r\n550 5.1.1 Status: 2.0.0 \xff")
    async with (
        FakeHop({"rcpt": [Reply("250 2.1.5 yes"), refusal]}, extensions=(*EXTENSIONS, "DSN")) as out,
        FakeHop(extensions=(*EXTENSIONS, "DSN")) as back,
        running(tables(out, back), tmp_path) as relay,
    ):
        await submit(
            relay,
            "<sue@ours.test> RET=HDRS ENVID=QQ+2B1",
            "<ann@theirs.test> NOTIFY=FAILURE ORCPT=rfc822;Ann@Theirs.test",
            "<bob@theirs.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;Bob+2Bx@Theirs.test",
        )
        assert await emptied(tmp_path) == {}
        commands, report = reported(back)
    assert commands == [b"MAIL FROM:<> SIZE=%d" % len(back.accepted[0]), b"RCPT TO:<sue@ours.test>"]
    assert report.fields["Original-Envelope-Id"] == "QQ+1"
    assert report.fields["Reporting-MTA"] == f"dns; {HOSTNAME}"
    (about,) = report.recipients
    assert about["Original-Recipient"] == "rfc822; Bob+x@Theirs.test"
    assert about["Final-Recipient"] == "rfc822; bob@theirs.test"
    assert (about["Action"], about["Status"]) == ("failed", "5.1.1")
    assert about["Remote-MTA"] == "dns; [127.0.0.1]"
    assert about["Diagnostic-Code"] == "smtp; 550 5.1.1 <b?ob@theirs.test>: Status: 2.0.0 ??"
    assert report.kind == "text/rfc822-headers"
    assert b"Subject: lunch\r\n" in report.returned
    assert report.returned.startswith(b"Received: from client.test")
    assert report.header["To"] == "sue@ours.test"
    assert report.header["In-Reply-To"] == "<1@ours.test>"
    assert len(out.accepted) == 1


async def test_it_is_signed_on_the_wire(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    new_key(HOSTNAME, "s", Algorithm.RSA, file)
    key = SigningKey.load(HOSTNAME, "s", Algorithm.RSA, file)
    domain = {"ours": {"name": HOSTNAME, "key": {"k": {"selector": "s", "file": str(file)}}}}
    async with (
        FakeHop({"rcpt": [NOBODY]}) as out,
        FakeHop() as back,
        running(tables(out, back, domain=domain), tmp_path / "data") as relay,
    ):
        await submit(relay, "<sue@ours.test> BODY=8BITMIME", "<bob@theirs.test>", body="C: grüße\nC: ..\n")
        assert await emptied(tmp_path / "data") == {}
    _, report = reported(back)
    assert report.kind == "message/rfc822"
    assert report.encoding == "8bit"
    assert "grüße".encode() in report.returned
    assert dkimpy(back.accepted[0], {dns_name(key): dns_record(key)}) == [True]


async def test_the_way_back_has_seven_bits(tmp_path: Path) -> None:
    """Addresses outside ASCII and a body of 8 bits, and a hop for reports that takes neither."""
    async with (
        FakeHop({"rcpt": [NOBODY]}) as out,
        FakeHop(extensions=()) as back,
        running(tables(out, back), tmp_path) as relay,
    ):
        await submit(relay, "<sue@ours.test> SMTPUTF8", "<büro@theirs.test>", body="C: grüße\n")
        assert await emptied(tmp_path) == {}
    commands, report = reported(back)
    assert commands == [b"MAIL FROM:<>", b"RCPT TO:<sue@ours.test>"]
    assert back.accepted[0].isascii()
    assert report.recipients[0]["Final-Recipient"] == r"utf-8; b\x{FC}ro@theirs.test"
    assert "<büro@theirs.test>" in report.text
    # The mail is one with UTF-8 in its header by now: `Received: ... for <büro@theirs.test>`.
    assert (report.kind, report.encoding) == ("message/global", "quoted-printable")
    assert "grüße\r\n".encode() in report.returned


async def test_a_sender_outside_ascii(tmp_path: Path) -> None:
    async with (
        FakeHop({"rcpt": [NOBODY]}) as out,
        FakeHop() as back,
        running(tables(out, back), tmp_path) as relay,
    ):
        await submit(relay, "<süe@ours.test> SMTPUTF8", "<büro@theirs.test>")
        assert await emptied(tmp_path) == {}
    commands, report = reported(back)
    size = len(back.accepted[0])
    assert commands[0] == b"MAIL FROM:<> SIZE=%d SMTPUTF8 BODY=8BITMIME" % size
    assert commands[1] == "RCPT TO:<süe@ours.test>".encode()
    assert report.recipients[0]["Final-Recipient"] == "utf-8; büro@theirs.test"


async def test_a_report_that_no_route_takes_is_held(tmp_path: Path) -> None:
    async with FakeHop({"rcpt": [NOBODY]}) as out, FakeHop() as back:
        routes = {"route": {"away": {"hop": "out", "mode": "queue", "recipient_domain": ["theirs.test"]}}, "bounce": {}}
        async with running(tables(out, back, **routes), tmp_path) as relay:
            await submit(relay, "<sue@ours.test>", "<bob@theirs.test>")
            assert await emptied(tmp_path) == {"held": 1}
    (held,) = relay.of("queue.held")
    assert held.values == {"to": ["sue@ours.test"], "cause": "no route for the report"}
    assert back.accepted == []

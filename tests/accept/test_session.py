"""Transcripts against the real listener: the order of commands, and what each is answered."""

import asyncio

import pytest

from relay import reply
from relay.address import Address
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
GATEWAY = {"listener": {"gateway": {"role": "gateway", "domains": ["example.net"]}}}

# (what is said after the greeting, the codes of all replies)
CONVERSATIONS = [
    # RFC 5321 §4.1.4: the order of commands
    ([b"MAIL FROM:<ann@example.org>"], ["503 5.5.1"]),
    ([b"RCPT TO:<bob@example.net>"], ["503 5.5.1"]),
    ([b"DATA"], ["503 5.5.1"]),
    ([b"EHLO client.test", b"RCPT TO:<bob@example.net>"], ["250", "503 5.5.1"]),
    ([b"EHLO client.test", b"DATA"], ["250", "503 5.5.1"]),
    ([*OPEN[:2], b"DATA"], ["250", "250 2.1.0", "554 5.5.1"]),
    ([*OPEN, b"MAIL FROM:<eve@example.org>"], ["250", "250 2.1.0", "250 2.1.5", "503 5.5.1"]),
    ([*OPEN, b"RSET", b"DATA"], ["250", "250 2.1.0", "250 2.1.5", "250 2.0.0", "503 5.5.1"]),
    ([*OPEN, b"EHLO client.test", b"DATA"], ["250", "250 2.1.0", "250 2.1.5", "250", "503 5.5.1"]),
    ([*OPEN, b"NOOP", b"VRFY bob", b"DATA"], ["250", "250 2.1.0", "250 2.1.5", "250 2.0.0", "252 2.5.0", "354"]),
    # §4.1.1: verbs in any case, white space at the end, arguments where none belong
    (
        [b"ehlo client.test", b"mAiL fRoM:<ann@example.org>", b"rcpt to:<bob@example.net>   "],
        ["250", "250 2.1.0", "250 2.1.5"],
    ),
    ([b"HELO client.test", b"MAIL FROM:<ann@example.org>"], ["250", "250 2.1.0"]),
    ([b"HELO client.test", b"MAIL FROM:<ann@example.org> SIZE=1"], ["250", "501 5.5.4"]),
    ([b"EHLO", b"HELO", b"EHLO two words"], ["501 5.5.4"] * 3),
    ([b"EHLO " + b"a" * 255, b"EHLO " + b"a" * 256], ["250", "501 5.5.4"]),
    (
        [b"RSET now", b"NOOP now", b"HELP", b"VRFY", b"QUIT now"],
        ["501 5.5.4", "250 2.0.0", "214 2.0.0", "501 5.5.4", "501 5.5.4"],
    ),
    ([*OPEN, b"DATA now"], ["250", "250 2.1.0", "250 2.1.5", "501 5.5.4"]),
    # D13: what is not offered
    ([b"EXPN staff", b"ETRN x", b"TURN", b"XCLIENT ADDR=1.2.3.4", b"WIZ", b"DEBUG"], ["502 5.5.1"] * 6),
    ([b"STARTTLS", b"AUTH PLAIN"], ["502 5.5.1", "503 5.5.1"]),
    ([b"EHLO client.test", b"AUTH PLAIN"], ["250", "502 5.5.1"]),
    ([b"FOO", b"", b"MAILFROM:<a@b.c>"], ["500 5.5.1"] * 3),
    # D4: octets that belong in no command
    ([b"NOOP\0", b"NOOP \x7f", b"NOOP \xe9", b"\xc3\xa9HLO x", b"EHLO \xc3\xa9"], ["500 5.5.2"] * 5),
    ([b"EHLO a\rb", b"NOOP\nQUIT", b"NOOP\r"], ["500 5.5.2"] * 3),
    # D3, §4.5.3.1.4: 512 octets with CRLF
    ([b"NOOP " + b"x" * 505, b"NOOP " + b"x" * 506], ["250 2.0.0", "500 5.5.6"]),
    ([b"NOOP " + b"x" * 40_000, b"NOOP"], ["500 5.5.6", "250 2.0.0"]),
    # MAIL's parameters: RFC 1870, 6152, 6531, 4954 §5
    ([OPEN[0], b"MAIL FROM:<> BODY=8BITMIME SIZE=100 SMTPUTF8 AUTH=<>"], ["250", "250 2.1.0"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> size=100 body=7bit auth=ann+2Bx"], ["250", "250 2.1.0"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=26214400"], ["250", "250 2.1.0"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=26214401"], ["250", "552 5.3.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=99999999999999999999"], ["250", "552 5.3.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=" + b"9" * 21], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=-1"], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE="], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=1 SIZE=1"], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> BODY=BINARYMIME"], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> SMTPUTF8=1"], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> AUTH=+4"], ["250", "501 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> RET=HDRS"], ["250", "555 5.5.4"]),
    ([OPEN[0], b"MAIL FROM:<ann@example.org> X-Y=1"], ["250", "555 5.5.4"]),
    ([*OPEN[:2], b"RCPT TO:<bob@example.net> NOTIFY=NEVER"], ["250", "250 2.1.0", "555 5.5.4"]),
    # RFC 6531 §3.4, §3.5: non-ASCII addresses need the parameter
    ([OPEN[0], "MAIL FROM:<änn@example.org>".encode()], ["250", "553 5.6.7"]),
    (
        [OPEN[0], "MAIL FROM:<änn@exämple.org> SMTPUTF8".encode(), "RCPT TO:<bób@example.net>".encode()],
        ["250", "250 2.1.0", "250 2.1.5"],
    ),
    ([*OPEN[:2], "RCPT TO:<bób@example.net>".encode()], ["250", "250 2.1.0", "553 5.6.7"]),
    ([OPEN[0], b"MAIL FROM:<\xff@example.org> SMTPUTF8"], ["250", "501 5.1.7"]),
    # paths
    ([*OPEN[:2], b"RCPT TO:<>", b"RCPT TO:<Postmaster>"], ["250", "250 2.1.0", "501 5.1.3", "250 2.1.5"]),
    (
        [OPEN[0], b"MAIL FROM:<Postmaster>", b"MAIL FROM:ann@example.org", b"MAIL TO:<a@b.c>", b"MAIL"],
        ["250", "501 5.1.7", "501 5.1.7", "501 5.5.4", "501 5.5.4"],
    ),
    ([OPEN[0], b"MAIL FROM: <ann@example.org>", b"RCPT TO: <bob@example.net>"], ["250", "250 2.1.0", "250 2.1.5"]),
]


@pytest.mark.parametrize(("lines", "codes"), CONVERSATIONS)
async def test_each_command_has_its_reply(lines: list[bytes], codes: list[str]) -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        assert code(await client.read()) == "220"
        assert await client.converse(*lines) == codes


@pytest.mark.parametrize(("lines", "codes"), CONVERSATIONS)
async def test_pipelined_or_octet_by_octet_the_replies_are_the_same(lines: list[bytes], codes: list[str]) -> None:
    async with listening(Scripted()) as relay:
        for octets in (1, 1_000_000):
            async with smtp_client(relay.address("capture")) as client:
                assert code(await client.read()) == "220"
                stream = b"".join(line + b"\r\n" for line in lines)
                if octets == 1 and len(stream) > 2000:
                    octets = 700
                for at in range(0, len(stream), octets):
                    client.send(stream[at : at + octets])
                    await client.sent()
                    await asyncio.sleep(0)
                assert [code(await client.read()) for _ in codes] == codes


async def test_ehlo_offers_what_we_do() -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        lines = (await client.say(b"EHLO client.test")).split("\n")
        assert [line[4:] for line in lines] == [
            "relay.test",
            "PIPELINING",
            "SIZE 26214400",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            "LIMITS RCPTMAX=1000",
            "8BITMIME",
            "SMTPUTF8",
            "HELP",
        ]


async def test_a_message_comes_through_with_its_envelope() -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(
            b"EHLO client.test",
            b"MAIL FROM:<ann@example.org> SIZE=30 BODY=8BITMIME",
            b"RCPT TO:<bob@example.net>",
            b"RCPT TO:<Postmaster>",
            b"DATA",
        )
        reply_ = await client.say(b"Subject: x\r\n\r\n..a dot\r\n.")
        envelope, content = stages.received[0]
        assert reply_ == f"250 2.0.0 OK {envelope.id}"
        assert content == b"Subject: x\r\n\r\n.a dot\r\n"
        assert envelope.reverse_path == Address("ann", "example.org")
        assert envelope.recipients == [Address("bob", "example.net"), Address("Postmaster", "")]
        assert (envelope.size, envelope.eight_bit, envelope.smtputf8) == (30, True, False)
        assert envelope.client.listener == envelope.client.role == "capture"
        assert (str(envelope.client.ip), envelope.client.helo, envelope.client.login) == (
            "127.0.0.1",
            "client.test",
            None,
        )
        (fact,) = relay.of("received")
        assert fact.id == envelope.id
        assert fact.values["to"] == ["bob@example.net", "Postmaster"]
        assert await client.say(b"QUIT") == "221 2.0.0 goodbye"
        assert await client.rest() == []


async def test_the_next_message_needs_its_own_envelope() -> None:
    """After 5xx, 4xx and 2xx at the dot alike (reliability §0.3)."""
    for answer in (reply.malformed("no"), reply.INTERNAL, reply.OK, RuntimeError("secret: /var/lib/relay.db")):
        stages = Scripted(receive=answer)
        async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
            await client.read()
            await client.converse(*OPEN, b"DATA")
            said = await client.say(b"Subject: x\r\n\r\nbody\r\n.")
            assert "secret" not in said and "Error" not in said
            assert code(said) == ("451 4.3.0" if isinstance(answer, Exception) else f"{answer.code} {answer.enhanced}")
            assert await client.converse(b"DATA", b"RCPT TO:<bob@example.net>") == ["503 5.5.1"] * 2
            assert await client.converse(*OPEN[1:], b"DATA") == ["250 2.1.0", "250 2.1.5", "354"]
            await client.say(b"again\r\n.")
        assert len(stages.received) == 2


@pytest.mark.parametrize("stage", ["sender", "recipient", "receive"])
async def test_our_own_fault_is_451_and_its_traceback_is_ours(stage: str) -> None:
    """Reliability §0.2: never 5xx, never a word of the exception."""
    stages = Scripted(**{stage: RuntimeError("database is locked: /var/lib/secret.db")})
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        said = [await client.say(line) for line in [*OPEN, b"DATA"]]
        if stage == "receive":
            said.append(await client.say(b"body\r\n."))
        assert "451 4.3.0 internal trouble, try again later" in said
        assert not any("secret" in text or "RuntimeError" in text for text in said)
        (fact,) = relay.of("trouble")
        assert fact.level == "error"
        assert "database is locked" in str(fact.values["traceback"])


async def test_a_stage_that_always_fails_costs_the_client_its_session() -> None:
    async with listening(Scripted(sender=RuntimeError())) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.say(OPEN[0])
        client.send(OPEN[1] + b"\r\n")
        said = []
        while (text := await client.read()) and len(said) < 50:
            said.append(code(text))
            client.send(OPEN[1] + b"\r\n")
        assert said == ["451 4.3.0"] * 10 + ["421 4.7.0"]


async def test_trouble_while_a_message_is_read_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the message would run as commands."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("secret")

    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN, b"DATA")
        monkeypatch.setattr("relay.accept.data.DotReader.feed", fail)
        client.send(b"x\r\nNOOP\r\n.\r\nNOOP\r\n")
        assert [code(text) for text in await client.rest()] == ["451 4.3.0"]
        assert len(relay.of("trouble")) == 1


async def test_refusals_of_the_stages_go_back_as_they_are_and_into_a_fact() -> None:
    stages = Scripted(recipient=reply.NO_RELAY)
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        assert await client.converse(*OPEN, b"DATA") == ["250", "250 2.1.0", "550 5.7.1", "554 5.5.1"]
        fact, _ = relay.of("rejected")
        assert fact.values == {
            "stage": "rcpt",
            "reply": str(reply.NO_RELAY),
            "ip": "127.0.0.1",
            "from": "ann@example.org",
            "to": "bob@example.net",
        }


async def test_a_gateway_takes_no_space_before_the_path() -> None:
    async with listening(Scripted(), GATEWAY) as relay, smtp_client(relay.address("gateway")) as client:
        await client.read()
        assert await client.converse(OPEN[0], b"MAIL FROM: <ann@example.org>") == ["250", "501 5.1.7"]


async def test_replies_to_pipelined_commands_come_in_one_piece() -> None:
    """RFC 2920 §3.2; the whole group is answered before DATA's 354 and nothing is lost around it."""
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        client.send(b"\r\n".join([*OPEN, b"DATA", b""]))
        assert [code(await client.read()) for _ in range(4)] == ["250", "250 2.1.0", "250 2.1.5", "354"]
        client.send(b"one\r\n.\r\n" + b"\r\n".join([*OPEN[1:], b"DATA", b""]))
        assert [code(await client.read()) for _ in range(4)] == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354"]
        client.send(b"two\r\n.\r\nQUIT\r\n")
        assert [code(text) for text in await client.rest()] == ["250 2.0.0", "221 2.0.0"]
    assert stages.contents == [b"one\r\n", b"two\r\n"]


async def test_text_behind_a_refused_data_never_runs_as_commands() -> None:
    """D1: in the same segment the session ends at once, in a later one at the first line that is no verb."""
    text = b"Subject: x\r\n\r\nMAIL FROM:<smuggled@example.org>\r\n.\r\n"
    async with listening(Scripted(recipient=reply.NO_RELAY)) as relay:
        for together in (True, False):
            async with smtp_client(relay.address("capture")) as client:
                await client.read()
                await client.converse(*OPEN)
                client.send(b"DATA\r\n" + (text if together else b""))
                assert code(await client.read()) == "554 5.5.1"
                if not together:
                    client.send(text)
                assert [code(said) for said in await client.rest()] == ([] if together else ["421 4.7.0"])


async def test_a_gateway_hangs_up_on_text_sent_before_354() -> None:
    stages = Scripted()
    async with listening(stages, GATEWAY) as relay, smtp_client(relay.address("gateway")) as client:
        await client.read()
        await client.converse(*OPEN)
        client.send(b"DATA\r\nSubject: x\r\n\r\n.\r\n")
        assert [code(text) for text in await client.rest()] == ["554 5.5.0"]
    assert stages.received == []


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: mail\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.c>\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS ClientHello
        b"\x00\x00\x00\x85\xffSMB",
    ],
)
async def test_other_protocols_are_shown_the_door(octets: bytes) -> None:
    """D15."""
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        client.send(octets)
        assert [code(text) for text in await client.rest()] == ["421 4.5.0"]


async def test_a_bare_lf_is_answered_at_once_and_never_ends_a_command() -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        client.send(b"EHLO x\n")
        assert code(await client.read()) == "500 5.5.2"
        client.send(b"QUIT\nQUIT\r\nNOOP\r\n")  # up to the CRLF all is that one faulty line
        assert code(await client.read()) == "250 2.0.0"


async def test_an_endless_line_ends_the_session() -> None:
    """D3."""
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        client.send(b"x" * 1_000_000)
        assert [code(text) for text in await client.rest()] == ["500 5.5.6", "421 4.7.0"]

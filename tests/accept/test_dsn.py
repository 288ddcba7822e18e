"""RFC 3461 at MAIL and RCPT: strict, offered only where every next hop takes it, kept as given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accept import dsn
from relay.address import Address
from relay.capabilities import Capabilities
from relay.envelope import Notify
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>"]


def reporting() -> Scripted:
    stages = Scripted()
    stages.taken = Capabilities(eight_bit=True, smtputf8=True, dsn=True)
    return stages


def xtext(text: bytes) -> bytes:
    """RFC 3461 §4, encoder."""
    return b"".join(bytes([octet]) if 33 <= octet <= 126 and octet not in b"+=" else b"+%02X" % octet for octet in text)


@given(st.binary())
def test_xtext_decodes_to_what_was_encoded(text: bytes) -> None:
    assert dsn.decode(xtext(text)) == text


@pytest.mark.parametrize("value", [b"+", b"+2", b"+2b", b"+GG", b"a=b", b"a b", b"\x7f", b"\xc3", b"a\n", b"a+"])
def test_what_is_no_xtext(value: bytes) -> None:
    assert dsn.decode(value) is None


@pytest.mark.parametrize(
    ("parameter", "answer"),
    [
        (b"RET=FULL", "250 2.1.0"),
        (b"ret=hdrs", "250 2.1.0"),
        (b"RET=BODY", "501 5.5.4"),
        (b"RET", "501 5.5.4"),
        (b"RET=FULL RET=FULL", "501 5.5.4"),
        (b"ENVID=QQ314159", "250 2.1.0"),
        (b"ENVID=two+20words+2B", "250 2.1.0"),
        (b"ENVID=" + b"x" * 100, "250 2.1.0"),
        (b"ENVID=" + b"+2B" * 100, "250 2.1.0"),  # 100 when decoded
        (b"ENVID=" + b"x" * 101, "501 5.5.4"),
        (b"ENVID", "501 5.5.4"),
        (b"ENVID=a=b", "501 5.5.4"),
        (b"ENVID=a+2", "501 5.5.4"),
        (b"ENVID=a+2b", "501 5.5.4"),  # RFC 3461 §4: upper case
        # I3: what would be a line, a string's end or a terminal's command
        (b"ENVID=a+0D+0Ab", "501 5.5.4"),
        (b"ENVID=a+0A", "501 5.5.4"),
        (b"ENVID=+00", "501 5.5.4"),
        (b"ENVID=+1B", "501 5.5.4"),
        (b"ENVID=+7F", "501 5.5.4"),
        (b"ENVID=+C3+A9", "501 5.5.4"),
        (b"NOTIFY=NEVER", "555 5.5.4"),
        (b"SIZE=1 RET=FULL ENVID=x BODY=8BITMIME", "250 2.1.0"),
    ],
)
async def test_parameters_of_mail(parameter: bytes, answer: str) -> None:
    async with listening(reporting()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        assert await client.converse(OPEN[0], OPEN[1] + b" " + parameter) == ["250", answer]


@pytest.mark.parametrize(
    ("parameter", "answer"),
    [
        (b"NOTIFY=NEVER", "250 2.1.5"),
        (b"NOTIFY=SUCCESS", "250 2.1.5"),
        (b"notify=delay,failure,success", "250 2.1.5"),
        (b"NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
        (b"NOTIFY=SUCCESS,SUCCESS", "501 5.5.4"),
        (b"NOTIFY=SUCCESS,", "501 5.5.4"),
        (b"NOTIFY=,", "501 5.5.4"),
        (b"NOTIFY=ALWAYS", "501 5.5.4"),
        (b"NOTIFY", "501 5.5.4"),
        (b"NOTIFY=", "501 5.5.4"),
        (b"ORCPT=rfc822;bob+40example.net", "250 2.1.5"),
        (b"ORCPT=rfc822;Bob@Example.NET", "250 2.1.5"),
        (b"ORCPT=utf-8;b\\x{F6}b@example.net", "250 2.1.5"),  # RFC 6533 §3
        (b"ORCPT=rfc822;" + b"x" * 493, "250 2.1.5"),
        (b"ORCPT=rfc822;" + b"x" * 494, "501 5.5.4"),
        (b"ORCPT=rfc822", "501 5.5.4"),
        (b"ORCPT=;x", "501 5.5.4"),
        (b"ORCPT=rfc822;", "501 5.5.4"),
        (b"ORCPT=rfc 822;x", "501 5.5.4"),
        (b"ORCPT=a@b;x", "501 5.5.4"),
        (b"ORCPT=rfc822;a+0D+0ADATA", "501 5.5.4"),
        (b"ORCPT=rfc822;a+00", "501 5.5.4"),
        (b"ORCPT=rfc822;a=b", "501 5.5.4"),
        (b"RET=FULL", "555 5.5.4"),
        (b"X=1", "555 5.5.4"),
        (b"NOTIFY=FAILURE ORCPT=rfc822;x", "250 2.1.5"),
        (b"NOTIFY=FAILURE NOTIFY=FAILURE", "501 5.5.4"),
    ],
)
async def test_parameters_of_rcpt(parameter: bytes, answer: str) -> None:
    async with listening(reporting()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        line = b"RCPT TO:<bob@example.net> " + parameter
        assert await client.converse(*OPEN, line) == ["250", "250 2.1.0", answer]


async def test_the_envelope_has_them_as_they_were_given() -> None:
    stages = reporting()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        assert "250-DSN" in (await client.say(OPEN[0])).split("\n")
        await client.converse(
            OPEN[1] + b" RET=hdrs ENVID=a+20b",
            b"RCPT TO:<bob@example.net> notify=success,delay ORCPT=rfc822;Bob+40example.net",
            b"RCPT TO:<carol@example.net> NOTIFY=NEVER",
            b"RCPT TO:<dave@example.net>",
            b"DATA",
            b"x\r\n.",
        )
    ((envelope, _),) = stages.received
    assert (envelope.ret, envelope.envid) == ("hdrs", "a+20b")
    assert envelope.notify == {
        Address("bob", "example.net"): Notify("SUCCESS,DELAY", "rfc822;Bob+40example.net"),
        Address("carol", "example.net"): Notify("NEVER", ""),
    }


async def test_where_not_every_hop_takes_it_nothing_is_promised() -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        assert "DSN" not in await client.say(OPEN[0])
        assert code(await client.say(OPEN[1] + b" RET=FULL")) == "555 5.5.4"
        assert code(await client.say(OPEN[1] + b" ENVID=x")) == "555 5.5.4"
        assert code(await client.say(OPEN[1])) == "250 2.1.0"
        assert code(await client.say(b"RCPT TO:<bob@example.net> NOTIFY=NEVER")) == "555 5.5.4"
        assert code(await client.say(b"RCPT TO:<bob@example.net> ORCPT=rfc822;x")) == "555 5.5.4"


async def test_what_ehlo_offered_holds_though_a_hop_has_changed_since() -> None:
    stages = reporting()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.say(OPEN[0])
        stages.taken = Capabilities()
        assert code(await client.say(OPEN[1] + b" RET=FULL")) == "250 2.1.0"

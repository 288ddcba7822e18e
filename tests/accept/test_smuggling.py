"""SMTP smuggling, inbound (R15): no sequence but CRLF.CRLF ends a message, in one piece or cut anywhere."""

from typing import Any

import pytest

from tests.support.certificates import Certificates
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
SMUGGLED = b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n"

# reliability §2.1, in its order: the octets, and whether a message that has them may be taken
SEQUENCES = [
    (b"\n.\n", False),
    (b"\n.\r\n", False),
    (b"\r.\r", False),
    (b"\r.\n", False),
    (b"\n.\r", False),
    (b"\r.\r\n", False),
    (b"\r\n.\n", False),
    (b"\r\n.\r", False),
    (b"\r\n.\r\r\n", False),
    (b"\r\r\n.\r\r\n", False),
    (b"\r\n\0.\r\n", False),
    (b"\r\n.\0\r\n", False),
    (b"\r\n. \r\n", True),
    (b"\r\n.\t\r\n", True),
    (b"\x0b.\x0b", True),
    (b"\xc2\x85.\xc2\x85", True),
    ("\u2028.\u2028".encode(), True),
]
BEFORE, AFTER = b"Subject: x\r\n\r\nbody", SMUGGLED + b"Subject: y\r\n\r\nsmuggled\r\n.\r\n"


async def open_data(client: SmtpClient) -> None:
    assert await client.converse(*OPEN[1:], b"DATA") == ["250 2.1.0", "250 2.1.5", "354"]


def as_received(sequence: bytes) -> bytes:
    """RFC 5321 §4.5.2 on what stands before the final dot."""
    return (BEFORE + sequence + AFTER)[: -len(b".\r\n")].replace(b"\r\n.", b"\r\n")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("sequence", "may_pass"), SEQUENCES)
async def test_one_message_or_a_refusal_and_no_command_from_the_content(
    sequence: bytes, may_pass: bool, tls: bool, certificates: Certificates
) -> None:
    stages = Scripted()
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    settings: dict[str, Any] = {"role": "gateway", "domains": ["example.net"]}
    tables = {"listener": {"gateway": settings | ({"tls": "implicit", **pair} if tls else {})}}
    context = certificates.client_context() if tls else None
    stream = BEFORE + sequence + AFTER
    expected = []
    async with (
        listening(stages, tables) as relay,
        smtp_client(relay.address("gateway"), tls=context) as client,
    ):
        await client.read()
        await client.say(OPEN[0])
        # Whole, then cut in two at each octet around the sequence: its own segment, its own TLS record.
        cuts = [0, *range(len(BEFORE) - 2, len(BEFORE) + len(sequence) + 3), len(stream) - 3, len(stream) - 1]
        for cut in cuts:
            await open_data(client)
            client.send(stream[:cut])
            await client.sent()
            if cut:  # the next segment goes when this one has been read
                await relay.until(lambda cut=cut: _held(relay) >= cut)
            client.send(stream[cut:])
            answer = code(await client.read())
            assert answer == ("250 2.0.0" if may_pass else "550 5.6.0"), cut
            if may_pass:
                expected.append(as_received(sequence))
        assert code(await client.say(b"NOOP")) == "250 2.0.0"  # and nothing was answered in between
    assert stages.contents == expected
    assert all(str(envelope.reverse_path) == "ann@example.org" for envelope, _ in stages.received)


def _held(relay: Any) -> int:
    """How many octets of the open DATA the relay has read."""
    (connection,) = [one for service in relay.listeners._services for one in service.connections]
    reading = connection.reading
    return reading.received if reading else 0


@pytest.mark.parametrize("sequence", [sequence for sequence, _ in SEQUENCES])
async def test_normalized_on_submission_it_is_one_message_without_bare_octets(sequence: bytes) -> None:
    stages = Scripted()
    tables = {"listener": {"submission": {"role": "submission", "bare_newline": "normalize"}}}
    async with listening(stages, tables) as relay, smtp_client(relay.address("submission")) as client:
        await client.read()
        await client.say(OPEN[0])
        await open_data(client)
        client.send(BEFORE + sequence + AFTER)
        answer = code(await client.read())
        assert code(await client.say(b"NOOP")) == "250 2.0.0"
    if b"\0" in sequence:
        assert (answer, stages.contents) == ("550 5.6.0", [])
        return
    assert answer == "250 2.0.0"
    (content,) = stages.contents
    text = content.replace(b"\r\n", b"")
    assert b"\r" not in text
    assert b"\n" not in text


@pytest.mark.parametrize(
    ("role", "settings", "answer", "lines"),
    [
        ("submission", {}, "550 5.6.0", []),
        ("submission", {"long_lines": "fold"}, "250 2.0.0", [998, 503]),
        ("gateway", {"domains": ["example.net"]}, "250 2.0.0", [1500]),
        ("capture", {}, "250 2.0.0", [1500]),
    ],
)
async def test_long_lines(role: str, settings: dict[str, Any], answer: str, lines: list[int]) -> None:
    stages = Scripted()
    tables = {"listener": {role: {"role": role, **settings}}}
    async with listening(stages, tables) as relay, smtp_client(relay.address(role)) as client:
        await client.read()
        await client.say(OPEN[0])
        await open_data(client)
        assert code(await client.say(b"x" * 1500 + b"\r\n.")) == answer
    assert [len(line) for content in stages.contents for line in content.split(b"\r\n")[:-1]] == lines

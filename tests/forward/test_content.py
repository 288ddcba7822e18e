"""What leaves is what we hold, octet for octet, dots and borders of chunks notwithstanding."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import message
from relay.forward.transaction import dot_stuffed
from tests.support.fake_hop import FakeHop
from tests.support.sending import ANN, Sending

# Lines that a careless sender gets wrong; among them what is left of the smuggling sequences of
# 2023 once bare CR, bare LF and NUL are refused or normalised at the door.
NASTY = [b"", b".", b"..", b"...", b". ", b".\t", b".\x0b", b".\xc2\x85", b". QUIT", b"DATA", b"MAIL FROM:<>", b"x."]
LINES = st.lists(
    st.one_of(
        st.sampled_from(NASTY),
        st.binary(max_size=30).map(lambda line: line.translate(None, b"\r\n\0")),
    ),
    max_size=12,
)
CONTENT = LINES.map(lambda lines: b"".join(line + b"\r\n" for line in lines))


def unstuffed(wire: bytes) -> bytes:
    """RFC 5321 §4.5.2 from the receiver's side, line by line. Fails if the wire is not one content."""
    *lines, dot, rest = wire.split(b"\r\n")
    assert (dot, rest) == (b".", b"")
    assert b"." not in lines
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines)


def cut(content: bytes, sizes: list[int]) -> Iterator[memoryview]:
    at = 0
    for size in sizes:
        yield memoryview(content)[at : at + size]
        at += size
    yield memoryview(content)[at:]


@given(CONTENT, st.lists(st.integers(0, 9), max_size=40))
def test_dot_stuffing_is_undone_by_the_receiver(content: bytes, sizes: list[int]) -> None:
    assert unstuffed(b"".join(dot_stuffed(cut(content, sizes)))) == content


@pytest.mark.parametrize("content", [b".\r\n", b"\r\n.\r\n", b"a\r\n.b\r\n..\r\n\r\n.\r\n.c\r\n", b"\r\n\r\n", b""])
def test_dot_stuffing_at_every_border(content: bytes) -> None:
    whole = b"".join(dot_stuffed([content]))
    for first in range(len(content) + 1):
        for second in range(first, len(content) + 1):
            pieces = [content[:first], content[first:second], content[second:]]
            assert b"".join(dot_stuffed(pieces)) == whole
    assert unstuffed(whole) == content


def test_a_last_line_without_crlf_gets_one() -> None:
    for content in (b"a", b"a\r\nb", b".", b"a\r\n."):
        assert unstuffed(b"".join(dot_stuffed([content]))) == content + b"\r\n"


def test_what_has_no_dot_lines_is_not_rewritten() -> None:
    piece = b"a line\r\n" * 1000
    assert next(iter(dot_stuffed([piece]))) is piece


# --- on the wire -------------------------------------------------------------------------------------


@asynccontextmanager
async def aiosmtpd_sink(taken: list[bytes]) -> AsyncIterator[int]:
    """A stock aiosmtpd that keeps what it is given. Yields its port."""

    class Keep:
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
            taken.append(envelope.original_content)
            return "250 2.0.0 taken"

    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Keep(), hostname="sink.example"), "127.0.0.1")
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, message.CHUNK])
async def test_two_servers_read_what_we_hold(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With chunks this small each CRLF and each dot comes to stand at a border."""
    monkeypatch.setattr(message, "CHUNK", chunk)
    monkeypatch.setattr("relay.forward.transaction.CHUNK", chunk)
    contents = [b"Subject: x\r\n\r\n" + line + b"\r\n" + other + b"\r\n" for line in NASTY for other in NASTY[:5]]
    contents.append(b"Subject: x\r\n\r\n")
    taken: list[bytes] = []
    async with aiosmtpd_sink(taken) as port, FakeHop() as fake:
        for to in (port, fake.port):
            sending = Sending(to)
            for content in contents:
                await sending.deliver(ANN, content=content)
            await sending.close()
    assert taken == contents
    assert fake.accepted == contents
    wires = [wire for session in fake.sessions for wire in session.wires]
    assert [unstuffed(wire) for wire in wires] == contents


@settings(max_examples=25, deadline=None)
@given(st.lists(CONTENT, min_size=1, max_size=8))
def test_any_clean_content_arrives_as_it_was(bodies: list[bytes]) -> None:
    contents = [b"Subject: x\r\n\r\n" + body for body in bodies]

    async def send() -> tuple[list[bytes], list[bytes]]:
        taken: list[bytes] = []
        async with aiosmtpd_sink(taken) as port, FakeHop() as fake:
            for to in (port, fake.port):
                sending = Sending(to)
                for content in contents:
                    await sending.deliver(ANN, content=content)
                await sending.close()
            return taken, fake.accepted

    taken, accepted = asyncio.run(send())
    assert taken == contents
    assert accepted == contents


async def test_ten_megabytes_arrive_by_hash() -> None:
    body = b"".join(b".%07d %s\r\n" % (number, b"x" * (number % 70)) for number in range(230_000))
    content = b"Subject: big\r\n\r\n" + body
    async with FakeHop(extensions=("PIPELINING",)) as fake:
        sending = Sending(fake.port, phase=60.0)
        await sending.deliver(ANN, content=content)
        await sending.close()
        (accepted,) = fake.accepted
        assert hashlib.sha256(accepted).digest() == hashlib.sha256(content).digest()

"""BDAT (RFC 3030): chunks are joined as they are, and whatever is wrong, their octets never run as commands."""

import asyncio
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import reply
from relay.accept import wire
from relay.accept.chunks import Chunk, ChunkReader, parse_bdat
from relay.accept.limits import Load, Reservation
from relay.config.models import Limit, Stress
from relay.reply import Reply
from tests.accept.test_memory import MIB, Measured
from tests.accept.test_smuggling import AFTER, BEFORE, SEQUENCES
from tests.support.certificates import Certificates
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Listening, Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
OPENED = ["250", "250 2.1.0", "250 2.1.5"]
CHUNK, TAKEN = "250 2.0.0", "250 2.0.0"


def bdat(octets: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(octets), b" LAST" if last else b"", octets)


async def opened(client: SmtpClient) -> None:
    assert code(await client.read()) == "220"
    assert await client.converse(*OPEN) == OPENED


async def codes(client: SmtpClient, count: int) -> list[str]:
    return [code(await client.read()) for _ in range(count)]


# --- pure -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [
        (b"0", Chunk(0, False)),
        (b"12 LAST", Chunk(12, True)),
        (b"12 last", Chunk(12, True)),
        (b"12  LAST", Chunk(12, True)),
        (b"99999999999999999999", Chunk(99999999999999999999, False)),
    ],
)
def test_arguments(argument: bytes, chunk: Chunk) -> None:
    assert parse_bdat(argument) == chunk


@pytest.mark.parametrize("argument", [b"", b"LAST", b"-1", b"+1", b"1.0", b"0x10", b"1e3", b"9" * 21, "²".encode()])
def test_without_a_size_there_is_no_chunk(argument: bytes) -> None:
    assert isinstance(parse_bdat(argument), Reply)


@pytest.mark.parametrize(("argument", "is_last"), [(b"5 FIRST", False), (b"5 LAST x", True), (b"5 5", False)])
def test_with_a_size_the_rest_may_be_wrong(argument: bytes, is_last: bool) -> None:
    chunk = parse_bdat(argument)
    assert isinstance(chunk, Chunk)
    assert (chunk.size, chunk.is_last, chunk.fault is not None) == (5, is_last, True)


PIECES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"a", b".", b"\r\n.\r\n", b"x\r\n"])).map(b"".join)


@given(PIECES, st.lists(st.integers(0, 40)))
def test_any_split_gives_the_same_message_and_the_same_fault(content: bytes, cuts: list[int]) -> None:
    """The wire's rules hold for the joined content."""
    load = Load(Limit(), Stress(), 0, lambda on: None)
    reader = ChunkReader(Reservation(load, 10**6), 0.0)
    for start, end in pairwise([0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]):
        reader.feed(bytearray(content[start:end]))
    reader.finish()
    assert reader.received == len(content)
    assert reader.content == content + (b"" if not content or content[-1:] in b"\r\n" else b"\r\n")
    assert reader.problem is wire.problem(content)
    reader.release()
    assert load.memory == 0


# --- over real connections ----------------------------------------------------------------------------


async def test_each_chunk_has_its_250_and_the_last_the_message_s() -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        assert code(await client.say(b"BDAT 14\r\nSubject: x\r\n")) == CHUNK
        assert code(await client.say(b"BDAT 0")) == CHUNK
        client.send(bdat(b"\r\nbody\r\n.\r\n..\r\n"))
        assert code(await client.read()) == CHUNK
        text = await client.say(b"BDAT 0 LAST")
        assert text == f"250 2.0.0 OK {stages.received[0][0].id}"
        assert stages.contents == [b"Subject: x\r\n\r\n\r\nbody\r\n.\r\n..\r\n"]  # no dot is special
        assert await client.converse(b"BDAT 0 LAST", b"DATA") == ["503 5.5.1"] * 2  # and the transaction is over
        assert await client.converse(*OPEN[1:], b"DATA", b"x\r\n.") == [*OPENED[1:], "354", "250 2.0.0"]


async def test_a_whole_transaction_in_one_segment() -> None:
    """RFC 2920 and 3030 §4.2: chunks may be pipelined behind each other and behind RCPT."""
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        envelope = b"".join(line + b"\r\n" for line in OPEN[1:])
        client.send(OPEN[0] + b"\r\n")
        client.send((envelope + bdat(b"one\r\n") + bdat(b"two\r\n") + bdat(b"three\r\n", last=True)) * 2 + b"QUIT\r\n")
        expected = [*OPENED[1:], CHUNK, CHUNK, TAKEN]
        assert [code(text) for text in await client.rest()] == ["220", "250", *expected * 2, "221 2.0.0"]
    assert stages.contents == [b"one\r\ntwo\r\nthree\r\n"] * 2


async def test_octet_by_octet() -> None:
    stages = Scripted()
    stream = b"".join(line + b"\r\n" for line in OPEN) + bdat(b"a\r") + bdat(b"\nb\r\n", last=True) + b"NOOP\r\n"
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        for at in range(len(stream)):
            client.send(stream[at : at + 1])
            await client.sent()
        assert await codes(client, 7) == ["220", *OPENED, CHUNK, TAKEN, "250 2.0.0"]
    assert stages.contents == [b"a\r\nb\r\n"]


async def test_the_last_line_gets_its_crlf() -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(bdat(b"no end", last=True))
        assert code(await client.read()) == TAKEN
    assert stages.contents == [b"no end\r\n"]


REFUSALS: list[tuple[bytes, list[str], list[bytes]]] = [
    # (what is sent behind EHLO, the codes, what is received)
    (bdat(b"MAIL FROM:<eve@example.org>\r\n", last=True), ["503 5.5.1"], []),
    (OPEN[1] + b"\r\n" + bdat(b"RSET\r\n") + bdat(b"RSET\r\n", last=True), ["250 2.1.0", "554 5.5.1", "554 5.5.1"], []),
    # after a chunk without recipients there is no way to send the rest alone
    (
        OPEN[1] + b"\r\n" + bdat(b"a\r\n") + OPEN[2] + b"\r\n" + bdat(b"b\r\n", last=True) + b"RSET\r\n",
        ["250 2.1.0", "554 5.5.1", "503 5.5.1", "554 5.5.1", "250 2.0.0"],
        [],
    ),
    # MAIL and RCPT while chunks come
    (
        b"\r\n".join([*OPEN[1:], bdat(b"a\r\n") + OPEN[1], OPEN[2], bdat(b"b\r\n", last=True)]),
        [*OPENED[1:], CHUNK, "503 5.5.1", "503 5.5.1", TAKEN],
        [b"a\r\nb\r\n"],
    ),
    # §2: RSET, and EHLO, forget what came
    (
        b"\r\n".join([*OPEN[1:], bdat(b"a\r\n") + b"RSET", *OPEN[1:], bdat(b"b\r\n", last=True)]),
        [*OPENED[1:], CHUNK, "250 2.0.0", *OPENED[1:], TAKEN],
        [b"b\r\n"],
    ),
    (
        b"\r\n".join([*OPEN[1:], bdat(b"a\r\n") + OPEN[0], bdat(b"b\r\n", last=True)]),
        [*OPENED[1:], CHUNK, "250", "503 5.5.1"],
        [],
    ),
    # arguments that are wrong, with a size: the octets are swallowed, and the message is lost
    (
        b"\r\n".join([*OPEN[1:], b"BDAT 6 FIRST", b"NOOP\r\n" + bdat(b"b\r\n", last=True) + b"NOOP", b""]),
        [*OPENED[1:], "501 5.5.4", "501 5.5.4", "250 2.0.0"],
        [],
    ),
    # the wire's rules (I3, R15) across chunk borders
    (b"\r\n".join([*OPEN[1:], bdat(b"a\r") + bdat(b"b\r\n", last=True)]), [*OPENED[1:], CHUNK, "550 5.6.0"], []),
    (b"\r\n".join([*OPEN[1:], bdat(b"a") + bdat(b"\nb\r\n", last=True)]), [*OPENED[1:], CHUNK, "550 5.6.0"], []),
    (b"\r\n".join([*OPEN[1:], bdat(b"a\r") + bdat(b"", last=True)]), [*OPENED[1:], CHUNK, "550 5.6.0"], []),
    (b"\r\n".join([*OPEN[1:], bdat(b"\0\r\n", last=True)]), [*OPENED[1:], "550 5.6.0"], []),
    (b"\r\n".join([*OPEN[1:], bdat(b"a\r") + bdat(b"\n", last=True)]), [*OPENED[1:], CHUNK, TAKEN], [b"a\r\n"]),
]  # fmt: skip


@pytest.mark.parametrize("octets", [1, 7, 1_000_000])
@pytest.mark.parametrize(("stream", "answers", "contents"), REFUSALS)
async def test_sequences(stream: bytes, answers: list[str], contents: list[bytes], octets: int) -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.say(OPEN[0])
        for at in range(0, len(stream), octets):
            client.send(stream[at : at + octets])
            await client.sent()
        assert await codes(client, len(answers)) == answers
        assert code(await client.say(b"NOOP")) == "250 2.0.0"  # and nothing more was answered
        await client.say(b"RSET")
        assert relay.listeners.load.memory == 0
    assert stages.contents == contents


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"BDAT", "501 5.5.4"),
        (b"BDAT LAST", "501 5.5.4"),
        (b"BDAT -1 LAST", "501 5.5.4"),
        (b"BDAT x", "501 5.5.4"),
        (b"BDAT " + b"9" * 21, "501 5.5.4"),
        (b"BDAT 30\0 LAST", "500 5.5.2"),
        (b"bdat\t30", "500 5.5.2"),
        (b"BDAT 30\n", "500 5.5.2"),
        (b"BDAT 30 \xff", "500 5.5.2"),
        (b"BDAT 30" + b" " * 600, "500 5.5.6"),
    ],
)
async def test_without_a_size_the_session_ends(line: bytes, answer: str) -> None:
    """Nobody knows how much of what follows is the message."""
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(line + b"\r\nMAIL FROM:<eve@example.org>\r\nNOOP\r\n")
        assert [code(text) for text in await client.rest()] == [answer]


async def test_before_tls_the_octets_are_no_commands_either(certificates: Certificates) -> None:
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    settings = {"role": "capture", "tls": "starttls", "require_tls": True, **pair}
    async with (
        listening(Scripted(), {"listener": {"capture": settings}}) as relay,
        smtp_client(relay.address("capture")) as client,
    ):
        await client.read()
        await client.say(OPEN[0])
        client.send(bdat(b"STARTTLS\r\n") + bdat(b"QUIT\r\n", last=True) + b"NOOP\r\n")
        assert await codes(client, 3) == ["530 5.7.0", "530 5.7.0", "250 2.0.0"]


async def test_binarymime_is_never_taken() -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        assert "BINARYMIME" not in await client.say(OPEN[0])
        assert code(await client.say(OPEN[1] + b" BODY=BINARYMIME")) == "501 5.5.4"


async def test_refused_recipients() -> None:
    stages = Scripted(recipient=reply.NO_RELAY)
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.say(OPEN[0])
        client.send(b"\r\n".join([*OPEN[1:], bdat(b"QUIT\r\n") + bdat(b"QUIT\r\n", last=True) + b"NOOP", b""]))
        assert await codes(client, 5) == ["250 2.1.0", "550 5.7.1", "554 5.5.1", "554 5.5.1", "250 2.0.0"]
        assert [fact.values["reply"] for fact in relay.of("rejected")] == [str(reply.NO_RELAY), str(reply.NO_RECIPIENT)]


async def test_the_stages_answer_ends_the_transaction() -> None:
    for answer in (reply.INTERNAL, reply.malformed("no"), RuntimeError("secret")):
        stages = Scripted(receive=answer)
        async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
            await opened(client)
            client.send(bdat(b"x\r\n", last=True) + bdat(b"y\r\n", last=True))
            said = await codes(client, 2)
            assert said == ["451 4.3.0" if isinstance(answer, Exception) else str(answer)[:9], "503 5.5.1"]
            assert await client.converse(*OPEN[1:]) == OPENED[1:]
        assert stages.contents == [b"x\r\n"]


SMALL: dict[str, Any] = {"listener": {"capture": {"role": "capture", "max_message_size": "10 KiB"}}}


async def test_size_and_memory_are_limited_as_with_data() -> None:
    stages = Scripted()
    async with listening(stages, SMALL) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        exact = b"x" * 78 + b"\r\n"
        client.send(b"".join(bdat(exact) for _ in range(127)) + bdat(exact, last=True))
        assert await codes(client, 128) == [CHUNK] * 127 + [TAKEN]
        # One octet more: this chunk and all behind it are swallowed and refused, and count as one error.
        await client.converse(*OPEN[1:])
        client.send(bdat(b"x" * 10_000) + bdat(b"x" * 241) + bdat(b"y" * 8000) * 14)
        assert await codes(client, 16) == [CHUNK] + ["552 5.3.4"] * 15
        assert relay.listeners.load.memory == 0
        assert await client.converse(b"BDAT 0 LAST", b"NOOP") == ["552 5.3.4", "250 2.0.0"]
        (fact,) = relay.of("rejected")
        assert fact.values["stage"] == "data"
    assert [len(content) for content in stages.contents] == [10_240]


@pytest.mark.parametrize("size", [b"99999999999999999999", b"3000000"])
async def test_a_chunk_without_end_is_not_read(size: bytes) -> None:
    async with listening(Scripted(), SMALL) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(b"BDAT " + size + b"\r\nNOOP\r\n")
        assert [code(text) for text in await client.rest()] == ["552 5.3.4"]


async def test_chunks_of_nothing_are_junk() -> None:
    tables = {"listener": {"capture": {"role": "capture"}}, "limit": {"junk": 5}}
    async with listening(Scripted(), tables) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(b"BDAT 0\r\n" * 50)
        assert [code(text) for text in await client.rest()] == [CHUNK] * 5 + ["421 4.7.0"]


async def test_a_chunk_that_does_not_come_gets_421() -> None:
    tables = {"listener": {"capture": {"role": "capture"}}, "timeout": {"data_idle": "200ms"}}
    async with listening(Scripted(), tables) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(bdat(b"first\r\n") + b"BDAT 10\r\nhalf")
        assert [code(text) for text in await client.rest()] == [CHUNK, "421 4.4.2"]
        await relay.until(lambda: relay.listeners.load.memory == 0)


@pytest.mark.parametrize("leave", ["reset", "half_close"])
async def test_cut_anywhere_it_is_received_only_if_the_last_chunk_was_complete(leave: str) -> None:
    """R8."""
    stages = Scripted()
    stream = bdat(b"one\r\n") + bdat(b"two\r\n", last=True)
    async with listening(stages) as relay:
        for end in range(len(stream) + 1):
            stages.received.clear()
            async with smtp_client(relay.address("capture")) as client:
                await opened(client)
                client.send(stream[:end])
                await client.sent()
                if end == len(stream):
                    await stages.arrived.wait()
                getattr(client, leave)()
                if leave == "half_close":
                    await client.rest()
            await relay.until(lambda: relay.listeners.load.connections == 0)
            assert stages.contents == ([b"one\r\ntwo\r\n"] if end == len(stream) else []), end
            assert relay.listeners.load.memory == 0
        assert relay.of("trouble") == []


async def test_stopping_a_message_in_chunks_may_come_to_its_end() -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(bdat(b"first\r\n"))
        assert code(await client.read()) == CHUNK
        async with smtp_client(relay.address("capture")) as idle:
            await idle.read()
            drained = asyncio.ensure_future(relay.listeners.drain(20))
            assert [code(text) for text in await idle.rest()] == ["421 4.3.2"]
        client.send(bdat(b"second\r\n") + bdat(b"third\r\n", last=True) + b"NOOP\r\n")
        assert [code(text) for text in await client.rest()] == [CHUNK, TAKEN, "421 4.3.2"]
        await drained
    assert stages.contents == [b"first\r\nsecond\r\nthird\r\n"]


@pytest.mark.parametrize("more", [b"", b"BDAT 10\r\nhalf"])
async def test_stopping_a_message_in_chunks_that_does_not_end_gets_421(more: bytes) -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        client.send(bdat(b"first\r\n") + more)
        assert code(await client.read()) == CHUNK
        await relay.listeners.drain(0.1)
        assert [code(text) for text in await client.rest()] == ["421 4.3.2"]
        assert relay.listeners.load.memory == 0


async def test_data_in_a_transaction_of_chunks() -> None:
    """§2: 503, and what came is lost; with text behind it the session ends, as after any refused DATA."""
    stages = Scripted()
    async with listening(stages) as relay:
        for text in (b"", b"Subject: x\r\n"):
            async with smtp_client(relay.address("capture")) as client:
                await opened(client)
                client.send(bdat(b"a\r\n") + b"DATA\r\n" + text)
                assert await codes(client, 2) == [CHUNK, "503 5.5.1"]
                if text:
                    assert await client.rest() == []
                    continue
                client.send(bdat(b"b\r\n") + bdat(b"c\r\n", last=True) + OPEN[1] + b"\r\n")
                assert await codes(client, 3) == ["503 5.5.1", "503 5.5.1", "250 2.1.0"]
    assert stages.contents == []


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("sequence", "may_pass"), SEQUENCES)
async def test_nothing_is_smuggled_in_a_chunk(
    sequence: bytes, may_pass: bool, tls: bool, certificates: Certificates
) -> None:
    """R15's row: each sequence inside a chunk, cut in two chunks and in two segments at each octet."""
    stages = Scripted()
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    settings: dict[str, Any] = {"role": "gateway", "domains": ["example.net"]}
    tables = {"listener": {"gateway": settings | ({"tls": "implicit", **pair} if tls else {})}}
    content = BEFORE + sequence + AFTER
    expected = []
    async with (
        listening(stages, tables) as relay,
        smtp_client(relay.address("gateway"), tls=certificates.client_context() if tls else None) as client,
    ):
        await client.read()
        await client.say(OPEN[0])
        for cut in range(len(BEFORE) - 1, len(BEFORE) + len(sequence) + 2):
            # Two chunks.
            await client.converse(*OPEN[1:])
            client.send(bdat(content[:cut]) + bdat(content[cut:], last=True))
            assert await codes(client, 2) == [CHUNK, TAKEN if may_pass else "550 5.6.0"]
            # One chunk, two segments.
            await client.converse(*OPEN[1:])
            whole = bdat(content, last=True)
            head = len(whole) - len(content) + cut
            client.send(whole[:head])
            await client.sent()
            await relay.until(lambda cut=cut: held(relay) >= cut)
            client.send(whole[head:])
            assert code(await client.read()) == (TAKEN if may_pass else "550 5.6.0")
            expected += [content, content] if may_pass else []
        assert code(await client.say(b"NOOP")) == "250 2.0.0"
    assert stages.contents == expected
    assert all(str(envelope.reverse_path) == "ann@example.org" for envelope, _ in stages.received)


def held(relay: Listening) -> int:
    (connection,) = [one for service in relay.listeners._services for one in service.connections]
    return connection.reading.received if connection.reading else 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1024, 100_000, 8 * MIB])
async def test_a_message_in_chunks_costs_at_most_one_and_a_half_times_its_size(size: int) -> None:
    """R20, as DATA."""
    stages = Measured()
    line = b"x" * 78 + b"\r\n"
    wire_octets = line * (8 * MIB // len(line))
    chunks = [wire_octets[at : at + size] for at in range(0, len(wire_octets), size)]
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await opened(client)
        tracemalloc.start()
        try:
            for chunk in chunks:
                client.send(b"BDAT %d\r\n" % len(chunk))
                for at in range(0, len(chunk), 128 * 1024):
                    client.send(chunk[at : at + 128 * 1024])
                    await client.sent()
                assert code(await client.read()) == CHUNK
            assert code(await client.say(b"BDAT 0 LAST")) == TAKEN
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert stages.sizes == [len(wire_octets)]
    assert peak <= 1.5 * len(wire_octets) + 1.5 * MIB

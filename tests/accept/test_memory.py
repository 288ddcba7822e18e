"""Memory bombs (R20): what one message costs, and what all together may."""

import asyncio
import gc
import tracemalloc
import weakref
from typing import Any

import pytest

from relay import reply
from relay.accept.smtp import Smtp
from relay.envelope import Envelope
from relay.reply import Reply
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Scripted, listening, until

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
MIB = 1024**2


class Measured(Scripted):
    """Keeps no copy of what it receives, which would be measured too."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def receive(self, envelope: Envelope, content: bytearray) -> Reply:
        self.sizes.append(len(content))
        return reply.accepted(envelope.id)


async def open_data(client: SmtpClient) -> None:
    await client.read()
    assert (await client.converse(*OPEN, b"DATA"))[-1] == "354"


@pytest.mark.parametrize("line", [b"\r\n", b"x" * 78 + b"\r\n", b"x" * 8 * MIB + b"\r\n", b"..\r\n"])
async def test_a_message_costs_at_most_one_and_a_half_times_its_size(line: bytes) -> None:
    stages = Measured()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await open_data(client)
        wire = line * (8 * MIB // len(line) or 1)
        step = 128 * 1024
        tracemalloc.start()
        try:
            for at in range(0, len(wire), step):
                client.send(wire[at : at + step])
                await client.sent()
            client.send(b".\r\n")
            assert code(await client.read()) == "250 2.0.0"
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (size,) = stages.sizes
        assert size >= 5 * MIB
        # The fixed part: what the client, the socket and one chunk hold; the same for any size.
        assert peak <= 1.5 * size + 1.5 * MIB


async def test_beyond_the_memory_there_is_452_and_other_mail_flows() -> None:
    stages = Measured()
    tables: dict[str, Any] = {"listener": {"capture": {"role": "capture"}}, "limit": {"memory": "4 MiB"}}
    async with listening(stages, tables) as relay:
        address = relay.address("capture")
        async with smtp_client(address) as one, smtp_client(address) as two, smtp_client(address) as small:
            await open_data(one)
            await open_data(two)
            one.send(b"\r\n" * MIB)
            await relay.until(lambda: relay.listeners.load.memory >= 2 * MIB)
            two.send(b"\r\n" * (2 * MIB) + b".\r\n")
            assert code(await two.read()) == "452 4.3.1"
            await open_data(small)
            assert code(await small.say(b"x\r\n.")) == "250 2.0.0"
            # A size that cannot fit is refused before it is sent.
            assert await small.converse(b"MAIL FROM:<ann@example.org> SIZE=3000000") == ["452 4.3.1"]
            assert code(await one.say(b".")) == "250 2.0.0"
        await relay.until(lambda: relay.listeners.load.memory == 0)
    assert sorted(stages.sizes) == [3, 2 * MIB]


async def test_four_bombs_at_once_stay_within_the_memory() -> None:
    stages = Measured()
    tables: dict[str, Any] = {"listener": {"capture": {"role": "capture"}}, "limit": {"memory": "6 MiB"}}
    highest = 0

    async def bomb(address: tuple[str, int], line: bytes) -> str:
        nonlocal highest
        async with smtp_client(address) as client:
            await open_data(client)
            for _ in range(4 * MIB // len(line)):
                client.send(line)
                await client.sent()
                highest = max(highest, relay.listeners.load.memory)
            client.send(b"\r\n.\r\n")
            return code(await client.read())

    async with listening(stages, tables) as relay:
        address = relay.address("capture")
        kinds = [b"\r\n" * 4096, b"x" * 8192, b"." * 8192, b"\r\n.." * 2048]
        answers = await asyncio.gather(*(bomb(address, kind) for kind in kinds))
        assert set(answers) <= {"250 2.0.0", "452 4.3.1"}
        assert "452 4.3.1" in answers
        assert "250 2.0.0" in answers
        assert highest <= 6 * MIB
        await relay.until(lambda: relay.listeners.load.memory == 0)


async def test_a_client_that_sends_ahead_while_its_mail_is_delivered_must_wait() -> None:
    stages = Scripted()
    stages.gate = asyncio.Event()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await open_data(client)
        client.send(b"x\r\n.\r\n")
        await stages.arrived.wait()
        client.send(b"NOOP\r\n" * 60_000)
        (connection,) = relay.listeners._services[0].connections
        await relay.until(lambda: connection._is_reading_paused)
        assert len(connection._buffer) <= 64 * 1024 + 256 * 1024
        stages.gate.set()
        assert [code(text) for text in await client.rest()][-1] == "421 4.7.0"


async def test_a_session_that_is_over_is_freed_without_the_collector() -> None:
    """No cycle holds it: under load, collecting them would cost what the next sessions need."""
    async with listening(Scripted()) as relay:
        gc.collect()
        gc.disable()
        try:
            async with smtp_client(relay.address("capture")) as client:
                await open_data(client)
                assert code(await client.say(b"Subject: x\r\n\r\n.")) == "250 2.0.0"
                (session,) = [weakref.ref(one) for one in gc.get_objects() if isinstance(one, Smtp)]
                assert code(await client.say(b"QUIT")) == "221 2.0.0"
            await until(lambda: session() is None)
        finally:
            gc.enable()

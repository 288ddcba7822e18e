"""The relay stops: what has not sent its final dot ends at once, what has may finish."""

from __future__ import annotations

import asyncio

import pytest

from relay import reply
from relay.outcome import Outcome, Result
from tests.support.fake_hop import FakeHop, Stall
from tests.support.sending import ANN, BOB, CONTENT, Sending


def is_interrupted(outcome: Outcome) -> bool:
    assert (outcome.result, outcome.reply, outcome.host) == (Result.TEMPORARY, reply.HOP_TIMEOUT, "")
    return outcome.cause == "connect: the relay is stopping"


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data"])
async def test_who_waits_for_the_hop_waits_no_longer(stage: str) -> None:
    async with FakeHop({stage: Stall()}) as fake:
        sending = Sending(fake.port)
        delivery = asyncio.create_task(sending.deliver(ANN))
        await fake.reached(stage)
        sending.hop.hurry()
        (outcome,) = await delivery
        assert is_interrupted(outcome)
        await fake.all_closed()
        await sending.close()
        assert sending.hop.connections == 0


async def test_a_connection_that_was_used_before_is_not_tried_again() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port)
        await sending.deliver(ANN)
        fake.script["mail"] = Stall()
        delivery = asyncio.create_task(sending.deliver(BOB))
        await fake.reached("mail", 2)
        sending.hop.hurry()
        (outcome,) = await delivery
        assert is_interrupted(outcome)
        await sending.close()
        assert len(fake.sessions) == 1


async def test_who_has_just_been_given_a_connection_sends_nothing() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port, connections=1)
        fake.hold = asyncio.Event()
        first = asyncio.create_task(sending.deliver(ANN))
        await fake.reached("held")
        second = asyncio.create_task(sending.deliver(BOB))
        await asyncio.sleep(0)
        sending.hop._record = lambda fact: sending.hop.hurry()  # the first is told of; the second did not run yet
        fake.hold.set()
        (outcome,) = await second
        assert is_interrupted(outcome)
        assert (await first)[0].result is Result.DELIVERED
        await sending.close()
        assert fake.commands.count(b"DATA") == 1


async def test_content_that_the_hop_does_not_read_is_not_finished() -> None:
    reached, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hop\r\n")
        for answer in (b"250 hop\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await reader.readuntil(b"\r\n")
            writer.write(answer)
        await reader.readuntil(b"\r\n")
        reached.set()
        await closed.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        sending = Sending(server.sockets[0].getsockname()[1], data_block=60.0)
        delivery = asyncio.create_task(sending.deliver(ANN, content=CONTENT + b"x\r\n" * 6_000_000))
        await reached.wait()
        sending.hop.hurry()
        (outcome,) = await delivery
        assert is_interrupted(outcome)
        closed.set()
        await sending.close()


async def test_who_waits_for_a_connection_waits_no_longer_and_who_sent_the_final_dot_hears_the_answer() -> None:
    async with FakeHop() as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, connections=1)
        first = asyncio.create_task(sending.deliver(ANN))
        await fake.reached("held")
        second = asyncio.create_task(sending.deliver(BOB))
        await asyncio.sleep(0)
        sending.hop.hurry()
        (outcome,) = await second
        assert is_interrupted(outcome)
        fake.hold.set()
        (outcome,) = await first
        assert outcome.result is Result.DELIVERED
        await sending.close()
        assert fake.accepted == [CONTENT]


async def test_nothing_more_is_begun() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port)
        await sending.deliver(ANN)
        sending.hop.hurry()
        (outcome,) = await sending.deliver(BOB)
        assert is_interrupted(outcome)
        assert (await sending.ask()).result is Result.TEMPORARY
        await sending.close()
        assert fake.accepted == [CONTENT]
        assert len(fake.sessions) == 1

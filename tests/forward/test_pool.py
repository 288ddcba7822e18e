"""Connections: reused, capped, given up when odd or old; deliveries served in turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay import reply
from relay.clock import SystemClock
from relay.config.hop import Hop
from relay.config.models import Timeout
from relay.envelope import Client
from relay.forward.pool import Pool
from relay.outcome import Outcome, Result
from tests.support.clock import JumpingClock
from tests.support.fake_hop import Action, Close, FakeHop, Raw, Reply, Reset, Stall
from tests.support.sending import ANN, BOB, CONTENT, Sending


async def test_never_more_connections_than_allowed_and_nobody_starves() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port, connections=3)
        outcomes = await asyncio.gather(*(sending.deliver(ANN) for _ in range(40)))
        assert {outcome.result for (outcome,) in outcomes} == {Result.DELIVERED}
        assert fake.peak == len(fake.sessions) == 3
        assert len(fake.accepted) == 40
        await sending.close()
        assert sending.hop.connections == 0
        assert fake.open == 0


async def test_who_waits_is_served_in_the_order_of_coming() -> None:
    async with FakeHop() as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, connections=1)
        first = asyncio.create_task(sending.deliver(ANN))
        await fake.reached("held")
        names = [b"recipient-%02d" % number for number in range(10)]
        others = []
        for name in names:
            others.append(asyncio.create_task(sending.deliver(ANN, content=b"Subject: %s\r\n\r\n" % name)))
        fake.hold.set()
        await asyncio.gather(first, *others)
        assert fake.accepted[1:] == [b"Subject: %s\r\n\r\n" % name for name in names]
        await sending.close()


async def test_who_waits_too_long_is_told_so_and_loses_nobodys_turn() -> None:
    async with FakeHop() as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, connections=1)
        first = asyncio.create_task(sending.deliver(ANN))
        await fake.reached("held")
        (late,) = await sending.deliver(ANN, within=0.1)
        assert (late.result, late.reply) == (Result.TEMPORARY, reply.HOP_TIMEOUT)
        assert late.cause == "wait: all connections to the hop are busy"
        gone = asyncio.create_task(sending.deliver(ANN))
        patient = asyncio.create_task(sending.deliver(BOB))
        await asyncio.sleep(0)
        gone.cancel()
        fake.hold.set()
        assert [outcome.result for outcome in await first + await patient] == [Result.DELIVERED] * 2
        with pytest.raises(asyncio.CancelledError):
            await gone
        await sending.close()
        assert sending.hop.connections == 0


class Stub:
    """As much of a Connection as the pool sees."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_settled, self.is_usable, self.messages = True, True, 1

    def quit(self, within: float) -> None:
        self.closed.set_result(None)

    abort = lambda self: self.quit(0)  # noqa: E731


def pool_of_stubs(opened: list[Stub], **keys: object) -> Pool:
    async def open(until: float, id: str, client: Client | None) -> Stub:
        opened.append(Stub())
        return opened[-1]

    return Pool(Hop(**keys), Timeout(), SystemClock(), open)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["connection", "slot"])
async def test_what_is_given_to_one_who_is_cancelled_in_that_moment_goes_to_the_next(given: str) -> None:
    opened: list[Stub] = []
    pool = pool_of_stubs(opened, connections=1)
    until = time.monotonic() + 10
    used = await pool.take(until, "")
    gone, patient = (asyncio.create_task(pool.take(until, "")) for _ in range(2))
    await asyncio.sleep(0)
    if given == "connection":
        pool.give(used)
        gone.cancel()
    else:
        used.closed.add_done_callback(lambda _: gone.cancel())  # right behind the pool's own
        pool.drop(used)
    async with asyncio.timeout(5):
        assert await patient is opened[-1]
    assert gone.cancelled()
    assert len(opened) == (1 if given == "connection" else 2)
    assert pool.connections == 1


async def test_who_asks_for_a_fresh_connection_does_not_get_a_used_one() -> None:
    opened: list[Stub] = []
    pool = pool_of_stubs(opened, connections=1)
    until = time.monotonic() + 10
    used = await pool.take(until, "")
    asking = asyncio.create_task(pool.take(until, "", fresh=True))
    await asyncio.sleep(0)
    pool.give(used)
    async with asyncio.timeout(5):
        assert await asking is opened[1]
    assert used.closed.done()
    assert pool.connections == 1


async def test_an_opening_that_fails_gives_its_slot_to_the_next() -> None:
    async with FakeHop({"greeting": [Reply("554 5.7.1 no"), Reply("220 hop")]}) as fake:
        sending = Sending(fake.port, connections=1)
        one, two = await asyncio.gather(sending.deliver(ANN), sending.deliver(ANN))
        assert [one[0].result, two[0].result] == [Result.TEMPORARY, Result.DELIVERED]
        await sending.close()


async def test_a_connection_carries_so_many_messages_and_no_more() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port, messages_per_connection=2, connections=1)
        for _ in range(5):
            await sending.deliver(ANN)
        await sending.close()
        assert [len(session.wires) for session in fake.sessions] == [2, 2, 1]
        assert all(session.commands[-1] == b"QUIT" for session in fake.sessions)
        assert fake.peak == 1


async def test_an_idle_connection_takes_its_leave() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port, idle="50ms")
        await sending.deliver(ANN)
        await fake.all_closed()
        assert fake.commands[-1] == b"QUIT"
        await sending.close()


async def test_idleness_is_measured_from_the_last_use() -> None:
    async with FakeHop() as fake:
        clock = JumpingClock()  # it stands still, so the pool may look as often as it likes
        sending = Sending(fake.port, clock=clock, idle="20ms")
        await sending.deliver(ANN)
        await asyncio.sleep(0.1)
        await sending.deliver(ANN)
        assert len(fake.sessions) == 1
        clock.jump(1.0)
        await fake.all_closed()
        await sending.close()


async def test_a_connection_that_is_used_again_in_time_stays() -> None:
    async with FakeHop() as fake:
        clock = JumpingClock()
        sending = Sending(fake.port, clock=clock, idle="10s")
        for _ in range(4):
            await sending.deliver(ANN)
            clock.jump(9.0)
        assert len(fake.sessions) == 1
        await sending.close()


# --- a connection that the hop gave up while it was idle ----------------------------------------------

GOES_AWAY: list[Action] = [Raw(b"421 4.4.2 idle for too long\r\n", close=True), Close(), Reset()]


@pytest.mark.parametrize("action", GOES_AWAY, ids=["421", "FIN", "RST"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
async def test_a_reused_connection_that_fails_before_content_is_tried_once_more(stage: str, action: Action) -> None:
    good = {"mail": "250 ok", "rcpt": "250 ok", "data": "354 go"}[stage]
    async with FakeHop({stage: [Reply(good), action]}) as fake:
        sending = Sending(fake.port)
        for _ in range(2):
            (outcome,) = await sending.deliver(ANN)
            assert outcome.result is Result.DELIVERED
        assert fake.accepted == [CONTENT] * 2
        assert len(fake.sessions) == 2
        await sending.close()


async def test_once_more_is_once() -> None:
    async with FakeHop({"mail": [Reply("250 ok"), Close(), Close(), Close()]}) as fake:
        sending = Sending(fake.port)
        await sending.deliver(ANN)
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.TEMPORARY
        await sending.close()
        assert len(fake.sessions) == 2


async def test_the_second_try_is_made_on_a_fresh_connection_however_many_are_kept() -> None:
    """All kept connections died with the hop's restart, and the cap leaves no room beside them."""
    async with FakeHop({"mail": [Reply("250 ok")] * 3 + [Close()] * 3}) as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, connections=3)
        deliveries = [asyncio.create_task(sending.deliver(ANN)) for _ in range(3)]
        await fake.reached("held", 3)
        fake.hold.set()
        await asyncio.gather(*deliveries)
        assert sending.hop.connections == 3
        fake.script["mail"] = [Close()]
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        assert len(fake.sessions) == 4
        await sending.close()
        assert fake.peak == 3


async def test_a_fresh_connection_that_fails_is_not_tried_again() -> None:
    async with FakeHop({"mail": [Close()]}) as fake:
        sending = Sending(fake.port)
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TROUBLE)
        assert len(fake.sessions) == 1
        await sending.close()


async def test_nothing_is_tried_again_once_content_was_sent() -> None:
    async with FakeHop({"dot": [Reply("250 ok"), Close()]}) as fake:
        sending = Sending(fake.port)
        await sending.deliver(ANN)
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.AMBIGUOUS
        assert len(fake.sessions) == 1
        assert len(fake.sessions[0].wires) == 2
        await sending.close()


@pytest.mark.parametrize(
    "said", [b"421 4.4.2 idle for too long\r\n", b"250 2.0.0 stray\r\n", b"junk"], ids=["421", "stray", "junk"]
)
async def test_what_an_idle_hop_says_is_seen_before_the_next_use(said: bytes) -> None:
    class Talkative(FakeHop):
        async def _content(self, session, reader, writer):  # type: ignore[no-untyped-def]
            await super()._content(session, reader, writer)
            if len(self.sessions) == 1:
                await self.unasked.wait()
                writer.write(said)
                await writer.drain()
                await self._note("unasked")

    async with Talkative() as fake:
        fake.unasked = asyncio.Event()
        sending = Sending(fake.port)
        await sending.deliver(ANN)
        fake.unasked.set()
        await fake.reached("unasked")
        (outcome,) = await sending.deliver(BOB)
        assert str(outcome.reply) == "250 2.0.0 taken"
        assert len(fake.sessions) == 2
        assert fake.sessions[0].commands.count(b"DATA") == 1
        await sending.close()


async def test_an_idle_connection_on_which_the_hop_speaks_is_closed_at_once() -> None:
    class Talkative(FakeHop):
        async def _content(self, session, reader, writer):  # type: ignore[no-untyped-def]
            await super()._content(session, reader, writer)
            await self.unasked.wait()
            writer.write(b"250 2.0.0 stray\r\n")

    async with Talkative() as fake:
        fake.unasked = asyncio.Event()
        sending = Sending(fake.port)
        await sending.deliver(ANN)
        fake.unasked.set()
        await fake.all_closed()
        assert fake.commands[-1] == b"DATA"
        await sending.close()


# --- several hosts -----------------------------------------------------------------------------------


async def deliver_over(first: FakeHop, second: FakeHop, **keys: object) -> tuple[Sending, Outcome]:
    """Two hosts on one port: 127.0.0.1 is `first`, 127.0.0.2 `second`."""
    sending = Sending(first.port, host=("127.0.0.1", "127.0.0.2"), **keys)
    (outcome,) = await sending.deliver(ANN)
    return sending, outcome


@pytest.mark.parametrize(
    "script",
    [
        {"greeting": Reply("554 5.3.2 no service")},
        {"greeting": Reply("421 4.3.2 busy")},
        {"greeting": Close()},
        {"greeting": Stall()},
        {"greeting": Raw(b"SSH-2.0-OpenSSH_9.2\r\n")},
        {"ehlo": Reply("450 4.7.1 not now")},
        {"ehlo": Reset()},
        {"auth": Reply("535 5.7.8 wrong")},
        {"auth": Reply("454 4.7.0 try later")},
    ],
    ids=str,
)
async def test_a_host_that_does_not_get_us_to_mail_is_followed_by_the_next(script: dict[str, Action]) -> None:
    async with FakeHop(script, login=True) as first, FakeHop(login=True, host="127.0.0.2", port=first.port) as second:
        sending, outcome = await deliver_over(first, second, username="relay", password="x", greeting=0.3)
        assert (outcome.result, outcome.host) == (Result.DELIVERED, "127.0.0.2")
        assert (first.accepted, second.accepted) == ([], [CONTENT])
        assert [fact.values["host"] for fact in sending.facts] == ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
        await sending.close()


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
async def test_from_mail_on_the_answer_of_a_host_counts(stage: str) -> None:
    script = {stage: Reply("450 4.7.1 not now")}
    async with FakeHop(script) as first, FakeHop(host="127.0.0.2", port=first.port) as second:
        sending, outcome = await deliver_over(first, second)
        assert (str(outcome.reply), outcome.host) == ("450 4.7.1 not now", "127.0.0.1")
        assert second.sessions == []
        await sending.close()


async def test_a_host_that_took_no_connection_is_tried_last_for_a_while() -> None:
    clock = JumpingClock()
    async with (
        FakeHop({"greeting": [Reply("421 4.3.2 busy")]}) as first,
        FakeHop(host="127.0.0.2", port=first.port) as second,
    ):
        sending = Sending(
            first.port, host=("127.0.0.1", "127.0.0.2"), clock=clock, messages_per_connection=1, connections=1
        )
        for after in (0.0, 29.0, 2.0):
            clock.jump(after)
            await sending.deliver(ANN)
        assert [len(first.sessions), len(second.sessions)] == [2, 2]
        assert [len(first.accepted), len(second.accepted)] == [1, 2]
        await sending.close()


async def test_no_host_at_all() -> None:
    async with FakeHop() as gone:
        pass
    sending = Sending(gone.port, host=("127.0.0.1", "127.0.0.2"))
    (outcome,) = await sending.deliver(ANN)
    assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_UNREACHABLE)
    assert sending.events() == ["forward.trouble", "forward.trouble", "forward.deferred"]
    assert sending.hop.connections == 0
    sending = Sending(25, host=("no-such-host.invalid",))  # RFC 2606 §2
    (outcome,) = await sending.deliver(ANN)
    assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_UNREACHABLE)


# --- who we speak to ---------------------------------------------------------------------------------


async def test_a_hop_that_is_this_relay_gets_no_mail() -> None:
    async with FakeHop(name="Relay.Example.ORG") as fake:
        sending = Sending(fake.port)
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TROUBLE)
        (fact,) = [fact for fact in sending.facts if fact.event == "forward.trouble"]
        assert fact.level == "error"
        assert "this relay" in str(fact.values["cause"])
        assert fake.accepted == []


async def test_localhost_is_everybodys_name() -> None:
    async with FakeHop(name="localhost") as fake:
        sending = Sending(fake.port, hostname="localhost")
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        await sending.close()


async def test_a_server_from_before_ehlo() -> None:
    """RFC 5321 §3.2: after 500 or 502 the client says HELO; there are no extensions then."""
    async with FakeHop({"ehlo": [Reply("502 5.5.1 what?")]}) as fake:
        sending = Sending(fake.port)
        (outcome,) = await sending.deliver(ANN)
        assert outcome.result is Result.DELIVERED
        assert fake.commands[:3] == [
            b"EHLO relay.example.org",
            b"HELO relay.example.org",
            b"MAIL FROM:<ann@example.org>",
        ]
        await sending.close()


async def test_the_name_and_the_address_we_come_with() -> None:
    async with FakeHop() as fake:
        sending = Sending(fake.port, ehlo="other.example", source_address="127.0.0.9")
        await sending.deliver(ANN)
        assert fake.commands[0] == b"EHLO other.example"
        assert fake.peers == ["127.0.0.9"]
        await sending.close()


# --- a reload closes the hop and makes another --------------------------------------------------------


async def test_what_is_in_flight_when_the_hop_is_closed_is_delivered() -> None:
    """One mail at its final dot, one that waits for a connection, one whose session ends later."""
    async with FakeHop() as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, connections=1)
        at_the_dot = asyncio.create_task(sending.deliver(ANN))
        await fake.reached("held")
        waiting = asyncio.create_task(sending.deliver(BOB))
        await asyncio.sleep(0)
        await sending.close()
        fake.hold.set()
        for (outcome,) in (*await asyncio.gather(at_the_dot, waiting), await sending.deliver(ANN)):
            assert outcome.result is Result.DELIVERED
        await fake.all_closed()  # nothing is kept that nobody will close
        assert [session.commands[-1] for session in fake.sessions] == [b"QUIT"] * 3

"""LMTP next hops (RFC 2033): LHLO, and an answer for each recipient after the final dot."""

from __future__ import annotations

import asyncio

import pytest

from relay import reply
from relay.outcome import Outcome, Result
from tests.support.fake_hop import EXTENSIONS, Action, Close, FakeHop, Raw, Reply, Stall
from tests.support.sending import ANN, BOB, CAT, CONTENT, Sending

LHLO = b"LHLO relay.example.org"
TAKEN, FULL, GONE = Reply("250 2.1.5 saved"), Reply("452 4.2.2 full"), Reply("550 5.1.1 nobody")


def lmtp(script: dict[str, Action | list[Action]] | None = None, **keys: object) -> FakeHop:
    return FakeHop(script, lmtp=True, **keys)  # type: ignore[arg-type]


def sending(fake: FakeHop, **keys: object) -> Sending:
    return Sending(fake.port, kind="lmtp", **keys)


def told(outcomes: tuple[Outcome, ...]) -> list[str]:
    return [f"{outcome.result} {outcome.reply.code}" for outcome in outcomes]


@pytest.mark.parametrize("extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "one by one"])
async def test_each_recipient_gets_the_answer_that_is_his(extensions: tuple[str, ...]) -> None:
    # RFC 2033 §4.2: one reply for each RCPT that was accepted, in their order
    async with lmtp({"dot": [TAKEN, FULL, GONE]}, extensions=extensions) as fake:
        hop = sending(fake)
        outcomes = await hop.deliver(ANN, BOB, CAT)
        assert [outcome.recipient for outcome in outcomes] == [ANN, BOB, CAT]
        assert [outcome.result for outcome in outcomes] == [Result.DELIVERED, Result.TEMPORARY, Result.PERMANENT]
        assert [str(outcome.reply) for outcome in outcomes] == [
            "250 2.1.5 saved",
            "452 4.2.2 full",
            "550 5.1.1 nobody",
        ]
        assert [outcome.cause for outcome in outcomes] == ["", "dot: 452 4.2.2 full", "dot: 550 5.1.1 nobody"]
        # the connection is fit for the next mail
        assert told(await hop.deliver(ANN)) == ["delivered 250"]
        assert len(fake.sessions) == 1
        assert fake.commands[0] == LHLO
        assert fake.accepted == [CONTENT] * 2
        assert sorted(hop.events()[1:4]) == ["forward.deferred", "forward.delivered", "forward.refused"]
        await hop.close()


async def test_a_recipient_who_is_named_twice_is_answered_twice() -> None:
    async with lmtp({"dot": [TAKEN, GONE]}) as fake:
        hop = sending(fake)
        assert told(await hop.deliver(ANN, ANN)) == ["delivered 250", "permanent 550"]
        await hop.close()


async def test_recipients_that_disagree_at_rcpt_get_nothing_sent() -> None:
    async with lmtp({"rcpt": [Reply("250 2.1.5 ok"), FULL]}) as fake:
        hop = sending(fake)
        outcomes = await hop.deliver(ANN, BOB)
        assert [outcome.reply for outcome in outcomes] == [reply.DISAGREE, reply.Reply(452, "2.2", "full")]
        assert fake.accepted == []
        assert fake.commands[-1] == b"RSET"
        await hop.close()


@pytest.mark.parametrize("is_lmtp", [True, False])
async def test_where_each_can_be_settled_the_others_get_it(is_lmtp: bool) -> None:
    script = {"rcpt": [Reply("250 2.1.5 ok"), FULL, Reply("250 2.1.5 ok")], "dot": [TAKEN, GONE]}
    async with FakeHop(script, lmtp=is_lmtp) as fake:
        hop = sending(fake) if is_lmtp else Sending(fake.port)
        outcomes = await hop.deliver(ANN, BOB, CAT, each=True)
        last = "permanent 550" if is_lmtp else "delivered 250"  # SMTP has one answer for both
        assert told(outcomes) == ["delivered 250", "temporary 452", last]
        await hop.close()


async def test_where_all_are_refused_nothing_is_sent() -> None:
    async with FakeHop({"rcpt": [FULL, GONE]}) as fake:
        hop = Sending(fake.port)
        assert told(await hop.deliver(ANN, BOB, each=True)) == ["temporary 452", "permanent 550"]
        assert b"DATA" not in fake.commands
        await hop.close()


async def test_a_refused_data_is_the_answer_of_those_who_were_accepted() -> None:
    async with FakeHop({"rcpt": [Reply("250 2.1.5 ok"), GONE], "data": Reply("451 4.3.0 later")}) as fake:
        hop = Sending(fake.port)
        assert told(await hop.deliver(ANN, BOB, each=True)) == ["temporary 451", "permanent 550"]
        await hop.close()


@pytest.mark.parametrize(
    ("dots", "expected", "cause"),
    [
        ([TAKEN, Close()], ["delivered 250", "ambiguous 451", "ambiguous 451"], "dot: connection closed"),
        ([TAKEN, Stall()], ["delivered 250", "ambiguous 451", "ambiguous 451"], "dot: no answer in time"),
        ([TAKEN, Raw(b"nonsense\r\n")], ["delivered 250", "ambiguous 451", "ambiguous 451"], "dot: not an SMTP reply"),
        ([TAKEN, Reply("354 go on")], ["delivered 250", "ambiguous 451", "ambiguous 451"], "dot: unexpected reply 354"),
        ([Close()], ["ambiguous 451"] * 3, "dot: connection closed"),
        # a 421 is an answer like another, but the hop is about to leave
        ([TAKEN, Reply("421 4.3.2 down"), GONE], ["delivered 250", "temporary 451", "permanent 550"], ""),
        (
            [Raw(b"250 2.0.0 one\r\n421 4.3.2 down\r\n", close=True)],
            ["delivered 250", "temporary 451", "ambiguous 451"],
            "dot: connection closed",
        ),
    ],
)
async def test_answers_that_came_stand_when_the_rest_does_not(
    dots: list[Action], expected: list[str], cause: str
) -> None:
    async with lmtp({"dot": dots}) as fake:
        hop = sending(fake, final_dot=0.3)
        outcomes = await hop.deliver(ANN, BOB, CAT)
        assert told(outcomes) == expected
        assert not cause or outcomes[-1].cause == cause
        # whatever may still come on it is not the answer to another mail
        await fake.all_closed()
        await hop.deliver(ANN)
        assert len(fake.sessions) == 2
        await hop.close()


async def test_all_answers_together_have_the_time_of_one() -> None:
    """RFC 5321 §4.5.3.2.6 gives the final dot ten minutes: not ten for each of a hundred recipients."""

    class Slow(FakeHop):
        async def _do(self, stage: str, *rest: object) -> bytes:
            if stage == "dot":
                await asyncio.sleep(0.1)
            return await super()._do(stage, *rest)  # type: ignore[arg-type]

    async with Slow(lmtp=True) as fake:
        hop = sending(fake, final_dot=0.5)
        outcomes = await hop.deliver(*[ANN] * 10)  # a second in all
        assert outcomes[-1].result is Result.AMBIGUOUS
        await hop.close()


async def test_one_answer_more_than_recipients_is_nobodys() -> None:
    async with lmtp({"dot": [TAKEN, Raw(b"250 2.0.0 two\r\n250 2.0.0 three\r\n")]}) as fake:
        hop = sending(fake)
        assert told(await hop.deliver(ANN, BOB)) == ["delivered 250"] * 2
        assert told(await hop.deliver(CAT)) == ["delivered 250"]
        assert len(fake.sessions) == 2
        await hop.close()


async def test_a_mail_server_that_does_not_know_lhlo_is_an_error_of_ours() -> None:
    async with FakeHop() as fake:
        hop = sending(fake)
        (outcome,) = await hop.deliver(ANN)
        assert (outcome.result, outcome.cause) == (Result.TEMPORARY, "ehlo: 500 5.5.2 what?")
        assert [fact.level for fact in hop.facts if fact.event == "forward.trouble"] == ["error"]
        await fake.all_closed()
        assert fake.commands == [LHLO, b"QUIT"]


async def test_a_mailbox_server_on_this_machine_may_bear_our_name() -> None:
    async with lmtp(name="relay.example.org") as fake:
        hop = sending(fake)
        assert told(await hop.deliver(ANN)) == ["delivered 250"]
        await hop.close()


async def test_lhlo_says_what_the_hop_takes() -> None:
    async with lmtp(extensions=("SIZE 20000", "8BITMIME", "DSN")) as fake:
        hop = sending(fake)
        await hop.hop.probe()
        taken = hop.hop.capabilities
        assert (taken.size, taken.eight_bit, taken.smtputf8, taken.dsn) == (20000, True, False, True)
        await hop.close()

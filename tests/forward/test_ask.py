"""A hop is asked about a recipient: MAIL and RCPT on a pooled connection, and never content."""

from __future__ import annotations

import pytest

from relay import reply
from relay.address import Address
from relay.outcome import Result
from tests.support.fake_hop import EXTENSIONS, Action, Close, FakeHop, Reply, Stall
from tests.support.sending import ANN, Sending

ASKED = [b"MAIL FROM:<>", b"RCPT TO:<ann@example.com>", b"RSET"]


@pytest.mark.parametrize("extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
async def test_question_after_question_on_one_connection(kind: str, extensions: tuple[str, ...]) -> None:
    async with FakeHop(
        {"rcpt": [Reply("250 ok"), Reply("550 5.1.1 nobody")]}, lmtp=kind == "lmtp", extensions=extensions
    ) as fake:
        sending = Sending(fake.port, kind=kind)
        known, unknown = await sending.ask(), await sending.ask()
        assert (known.recipient, known.result) == (ANN, Result.DELIVERED)
        assert (unknown.result, str(unknown.reply)) == (Result.PERMANENT, "550 5.1.1 nobody")
        assert unknown.cause == "rcpt: 550 5.1.1 nobody"
        assert (await sending.deliver(ANN))[0].result is Result.DELIVERED
        assert len(fake.sessions) == 1
        assert fake.commands[1:7] == ASKED * 2
        assert [wire.count(b"hello") for wire in fake.sessions[0].wires] == [1]
        await sending.close()


@pytest.mark.parametrize(
    ("script", "result", "cause"),
    [
        ({"rcpt": Reply("450 4.2.0 greylisted")}, Result.TEMPORARY, "rcpt: 450 4.2.0 greylisted"),
        ({"rcpt": Reply("421 4.3.2 down")}, Result.TEMPORARY, "rcpt: 421 4.3.2 down"),
        ({"rcpt": Stall()}, Result.TEMPORARY, "rcpt: no answer in time"),
        ({"rcpt": Close()}, Result.TEMPORARY, "rcpt: connection closed"),
        ({"ehlo": Reply("550 5.7.1 not you")}, Result.TEMPORARY, "ehlo: 550 5.7.1 not you"),
        # what it says of <> is no word on the recipient: the cause tells them apart
        ({"mail": Reply("550 5.7.1 no bounces")}, Result.PERMANENT, "mail: 550 5.7.1 no bounces"),
    ],
)
async def test_trouble_is_told_as_for_a_mail(script: dict[str, Action], result: Result, cause: str) -> None:
    async with FakeHop(script) as fake:
        sending = Sending(fake.port, rcpt=0.3)
        outcome = await sending.ask()
        assert (outcome.result, outcome.cause) == (result, cause)
        await sending.close()


async def test_a_refusal_to_reset_costs_the_connection_only() -> None:
    async with FakeHop({"rset": Reply("500 5.5.1 what?")}) as fake:
        sending = Sending(fake.port)
        assert (await sending.ask()).result is Result.DELIVERED
        await fake.all_closed()
        await sending.close()


async def test_it_is_over_in_time() -> None:
    async with FakeHop({"mail": Stall()}) as fake:
        sending = Sending(fake.port)
        outcome = await sending.ask(within=0.2)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TIMEOUT)
        await sending.close()


async def test_a_connection_that_the_hop_gave_up_is_no_answer() -> None:
    async with FakeHop({"mail": [Reply("250 ok"), Close()]}) as fake:
        sending = Sending(fake.port)
        assert (await sending.ask()).result is Result.DELIVERED
        assert (await sending.ask()).result is Result.DELIVERED
        assert len(fake.sessions) == 2
        await sending.close()


async def test_a_name_in_utf8_is_asked_about_where_the_hop_takes_it() -> None:
    umlaut = Address("jürgen", "example.com")
    async with FakeHop() as fake:
        sending = Sending(fake.port)
        assert (await sending.ask(umlaut)).result is Result.DELIVERED
        assert fake.commands[1:3] == [b"MAIL FROM:<> SMTPUTF8", "RCPT TO:<jürgen@example.com>".encode()]
        await sending.close()
    async with FakeHop(extensions=("PIPELINING",)) as fake:
        sending = Sending(fake.port)
        assert (await sending.ask(umlaut)).reply == reply.UTF8_HOP
        assert len(fake.commands) == 1
        await sending.close()

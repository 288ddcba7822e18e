"""Transactions as the next hop sees them: commands, their order and parameters, one verdict a recipient."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from relay import reply
from relay.address import Address
from relay.envelope import Envelope
from relay.forward.transaction import mail_parameters
from relay.forward.trouble import Verdict
from relay.message import Message
from relay.outcome import Result
from tests.support.clock import JumpingClock
from tests.support.fake_hop import EXTENSIONS, Close, FakeHop, Raw, Reply, Stall
from tests.support.sending import ANN, BOB, CAT, CLIENT, CONTENT, SENDER, Sending

NO_PIPELINING = EXTENSIONS[1:]
EHLO, QUIT, RSET = b"EHLO relay.example.org", b"QUIT", b"RSET"
MAIL = b"MAIL FROM:<ann@example.org> SIZE=%d" % len(CONTENT)
TO_ANN, TO_BOB, TO_CAT = (b"RCPT TO:<%s@example.com>" % name for name in (b"ann", b"bob", b"cat"))


@pytest.mark.parametrize("extensions", [EXTENSIONS, NO_PIPELINING], ids=["pipelining", "one by one"])
async def test_one_connection_carries_message_after_message(extensions: tuple[str, ...]) -> None:
    async with FakeHop(extensions=extensions) as fake:
        sending = Sending(fake.port)
        for recipients in ([ANN], [ANN, BOB, CAT], [BOB]):
            outcomes = await sending.deliver(*recipients)
            assert [outcome.recipient for outcome in outcomes] == recipients
            assert {outcome.result for outcome in outcomes} == {Result.DELIVERED}
        await sending.close()
        assert fake.accepted == [CONTENT] * 3
        assert [session.commands for session in fake.sessions] == [
            [EHLO, MAIL, TO_ANN, b"DATA", MAIL, TO_ANN, TO_BOB, TO_CAT, b"DATA", MAIL, TO_BOB, b"DATA", QUIT]
        ]
        assert sending.events() == ["forward.connected"] + ["forward.delivered"] * 3


# --- pipelining (RFC 2920) ---------------------------------------------------------------------------


@asynccontextmanager
async def impatient(wait_for: bytes, *answers: bytes) -> AsyncIterator[int]:
    """A server that answers MAIL only once it has read up to `wait_for`. Yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hop\r\n")
        await reader.readuntil(b"\r\n")
        writer.write(b"250-hop\r\n250 PIPELINING\r\n")
        with suppress(asyncio.IncompleteReadError):  # the client gave up
            await reader.readuntil(wait_for)
            writer.write(b"".join(answers))
            await reader.readuntil(b"QUIT\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_mail_rcpt_and_data_go_out_without_waiting_in_between() -> None:
    async with impatient(b"DATA\r\n", b"250 ok\r\n250 ok\r\n354 go\r\n", b"250 2.0.0 taken\r\n") as port:
        sending = Sending(port, phase=0.5)
        (outcome,) = await sending.deliver(ANN)
        # Its 250 for the content came before the content, so it is not believed.
        assert outcome.result is Result.TEMPORARY
    async with impatient(b"\r\n.\r\n", b"250 ok\r\n250 ok\r\n354 go\r\n") as port:
        sending = Sending(port, phase=0.3)
        (outcome,) = await sending.deliver(ANN)
        assert outcome.cause == "mail: no answer in time", "content waits for the 354"


async def test_with_several_recipients_data_waits_for_their_answers() -> None:
    async with FakeHop({"rcpt": [Reply("250 ok"), Stall()]}) as fake:
        sending = Sending(fake.port, rcpt=0.2)
        outcomes = await sending.deliver(ANN, BOB)
        assert {outcome.result for outcome in outcomes} == {Result.TEMPORARY}
        assert b"DATA" not in fake.commands
    async with FakeHop({"rcpt": Stall()}) as fake:
        sending = Sending(fake.port, rcpt=0.2)
        await sending.deliver(ANN, BOB)
        await fake.all_closed()


@pytest.mark.parametrize("extensions", [EXTENSIONS, NO_PIPELINING], ids=["pipelining", "one by one"])
async def test_a_refusal_leaves_the_connection_for_the_next_message(extensions: tuple[str, ...]) -> None:
    """A session that skips RSET would answer 503 to the second MAIL (RFC 5321 §4.1.4)."""
    script = {"rcpt": [Reply("550 5.1.1 no such user")], "mail": [Reply("250 ok"), Reply("450 4.1.8 later")]}
    async with FakeHop(script, extensions=extensions) as fake:
        sending = Sending(fake.port)
        said = [str((await sending.deliver(ANN))[0].reply) for _ in range(3)]
        assert said == ["550 5.1.1 no such user", "450 4.1.8 later", "250 2.0.0 taken"]
        assert len(fake.sessions) == 1
        assert fake.accepted == [CONTENT]
        await sending.close()


async def test_a_354_for_a_refused_recipient_never_gets_a_lone_dot() -> None:
    """RFC 2920 §3.1 has the client send one; to some servers that is an empty mail."""
    async with FakeHop({"rcpt": Reply("550 5.1.1 no such user"), "data": Reply("354 go on")}) as fake:
        sending = Sending(fake.port)
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, str(outcome.reply)) == (Result.PERMANENT, "550 5.1.1 no such user")
        await fake.all_closed()
        assert (fake.sessions[0].wires, fake.sessions[0].content) == ([], [])
        assert sending.hop.connections == 0


async def test_a_refused_recipient_stays_refused_when_the_hop_goes_silent_behind_it() -> None:
    async with FakeHop({"rcpt": Reply("550 5.1.1 no such user"), "data": Stall()}) as fake:
        sending = Sending(fake.port, quit=0.2)
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, str(outcome.reply)) == (Result.PERMANENT, "550 5.1.1 no such user")
        await fake.all_closed()


# --- several recipients ------------------------------------------------------------------------------

OK, NO, LATER = Reply("250 2.1.5 ok"), Reply("550 5.1.1 no such user"), Reply("450 4.2.1 later")


@pytest.mark.parametrize("extensions", [EXTENSIONS, NO_PIPELINING], ids=["pipelining", "one by one"])
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([OK, NO], ["451 4.5.3 the recipients got different answers, send again", "550 5.1.1 no such user"]),
        ([LATER, OK], ["450 4.2.1 later", "451 4.5.3 the recipients got different answers, send again"]),
        ([NO, LATER], ["550 5.1.1 no such user", "450 4.2.1 later"]),
        ([NO, NO], ["550 5.1.1 no such user"] * 2),
    ],
)
async def test_recipients_that_are_not_all_taken_get_their_own_answer_and_nothing_is_sent(
    extensions: tuple[str, ...], answers: list[Reply], expected: list[str]
) -> None:
    async with FakeHop({"rcpt": list(answers)}, extensions=extensions) as fake:
        sending = Sending(fake.port)
        outcomes = await sending.deliver(ANN, BOB)
        assert [str(outcome.reply) for outcome in outcomes] == expected
        permanent = [outcome.result is Result.PERMANENT for outcome in outcomes]
        assert permanent == [text.startswith("5") for text in expected]
        assert fake.commands == [EHLO, MAIL, TO_ANN, TO_BOB, RSET]
        assert fake.accepted == []
        await sending.close()
        told = [to for fact in sending.facts for to in fact.values.get("to", [])]
        assert sorted(told) == ["ann@example.com", "bob@example.com"]


async def test_what_all_recipients_hear_alike_is_told_once() -> None:
    async with FakeHop({"dot": Reply("554 5.6.0 I do not like it")}) as fake:
        sending = Sending(fake.port)
        outcomes = await sending.deliver(ANN, BOB)
        assert {str(outcome.reply) for outcome in outcomes} == {"554 5.6.0 I do not like it"}
        (fact,) = [fact for fact in sending.facts if fact.event == "forward.refused"]
        assert fact.id == "id0"
        assert fact.values["to"] == ["ann@example.com", "bob@example.com"]
        assert fact.values["hop"] == "out"
        assert fact.values["host"] == "127.0.0.1"
        assert fact.values["reply"] == "554 5.6.0 I do not like it"
        await sending.close()


# --- after the dot -----------------------------------------------------------------------------------


async def test_silence_after_the_dot_is_ambiguous_and_says_that_it_may_duplicate() -> None:
    async with FakeHop({"dot": Stall()}) as fake:
        sending = Sending(fake.port, final_dot=0.2)
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.reply.code) == (Result.AMBIGUOUS, 451)
        (fact,) = [fact for fact in sending.facts if fact.event == "forward.ambiguous"]
        assert fact.values["may_duplicate"] == outcome.cause == "dot: no answer in time"
        await fake.all_closed()


async def test_after_our_dot_the_clients_patience_counts_no_more() -> None:
    async with FakeHop() as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port, final_dot=30.0, clock=JumpingClock())  # it stands still
        delivery = asyncio.create_task(sending.deliver(ANN, within=0.5))
        await fake.reached("held")
        await asyncio.sleep(0.7)  # no race: however slow we are, it must be waited for
        fake.hold.set()
        (outcome,) = await delivery
        assert outcome.result is Result.DELIVERED
        await sending.close()


async def test_our_dot_is_not_sent_when_the_354_uses_the_patience_up() -> None:
    clock = JumpingClock()

    class Slow(FakeHop):
        async def _note(self, stage: str) -> None:
            if stage == "data":
                clock.jump(31.0)
            await super()._note(stage)

    async with Slow(extensions=()) as fake:  # not pipelined: our wait for the 354 begins before the jump
        sending = Sending(fake.port, clock=clock)
        (outcome,) = await sending.deliver(ANN, within=30.0)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TIMEOUT)
        await fake.all_closed()
        assert fake.sessions[0].wires == []


async def test_our_dot_is_not_sent_once_the_clients_patience_is_over() -> None:
    for script in ({"mail": Stall()}, {"rcpt": Stall()}, {"data": Stall()}, {"greeting": Stall()}):
        async with FakeHop(script) as fake:
            sending = Sending(fake.port, phase=30.0)
            (outcome,) = await sending.deliver(ANN, within=0.2)
            assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TIMEOUT)
            await fake.all_closed()
            assert fake.sessions[0].wires == []
    async with FakeHop() as fake:
        sending = Sending(fake.port)
        (outcome,) = await sending.deliver(ANN, within=-1.0)
        assert (outcome.result, outcome.reply) == (Result.TEMPORARY, reply.HOP_TIMEOUT)
        assert fake.accepted == []


@pytest.mark.parametrize("stage", ["mail", "data", "held"])
async def test_a_cancelled_delivery_leaves_no_connection(stage: str) -> None:
    async with FakeHop({} if stage == "held" else {stage: Stall()}) as fake:
        fake.hold = asyncio.Event()
        sending = Sending(fake.port)
        delivery = asyncio.create_task(sending.deliver(ANN))
        await fake.reached(stage)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        fake.hold.set()
        await fake.all_closed()
        await sending.close()
        assert sending.hop.connections == 0


# --- a reply too many --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        {"dot": [Raw(b"250 2.0.0 taken\r\n550 5.0.0 stray\r\n")]},
        {"dot": [Raw(b"250 2.0.0 taken\r\n5")]},
        {"dot": [Raw(b"250 2.0.0 taken\r\n\0")]},
        {"rset": [Raw(b"250 2.0.0 ok\r\n250 stray\r\n")], "rcpt": [Reply("550 5.1.1 no")]},
    ],
)
async def test_a_stray_reply_is_never_the_answer_for_the_next_message(script: dict[str, list[Raw]]) -> None:
    async with FakeHop(script) as fake:
        sending = Sending(fake.port)
        first = (await sending.deliver(ANN))[0].reply
        assert first.code in (250, 550)
        (second,) = await sending.deliver(BOB)
        assert str(second.reply) == "250 2.0.0 taken"
        assert len(fake.sessions) == 2, "a connection with an oddity is not used again"
        await sending.close()


# --- parameters --------------------------------------------------------------------------------------

SEVEN = b"Subject: a\r\n\r\nseven bits\r\n"
EIGHT = b"Subject: a\r\n\r\n" + "grün\r\n".encode()
UTF8 = "Subject: grün\r\n\r\nseven bits\r\n".encode()
JOSE = Address("josé", "example.com")
ALL = {"size": "100000", "8bitmime": "", "smtputf8": ""}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in ALL.items() if name not in names}


PARAMETERS = [
    # content, extensions, envelope, recipient, expected
    (SEVEN, ALL, {}, ANN, b" SIZE=26"),
    (SEVEN, {}, {}, ANN, b""),
    (SEVEN, {"size": "26"}, {}, ANN, b" SIZE=26"),
    (SEVEN, {"size": "25"}, {}, ANN, reply.TOO_BIG_HOP),
    (SEVEN, {"size": "0"}, {}, ANN, b" SIZE=26"),  # RFC 1870 §3: no fixed maximum
    (SEVEN, {"size": ""}, {}, ANN, b" SIZE=26"),
    (SEVEN, {"size": "lots"}, {}, ANN, b" SIZE=26"),
    (SEVEN, {"8bitmime": ""}, {"eight_bit": True}, ANN, b" BODY=8BITMIME"),
    (SEVEN, {}, {"eight_bit": True}, ANN, b""),  # declared, but it is 7-bit: any server can take it
    (EIGHT, {"8bitmime": ""}, {}, ANN, b" BODY=8BITMIME"),  # not declared, but it is
    (EIGHT, {}, {}, ANN, reply.EIGHT_BIT_HOP),  # RFC 6152 §3
    (EIGHT, {}, {"eight_bit": True}, ANN, reply.EIGHT_BIT_HOP),
    (SEVEN, without("size"), {"smtputf8": True}, ANN, b""),  # nothing in it needs it
    (SEVEN, without("size"), {"smtputf8": True}, JOSE, b" SMTPUTF8"),
    (UTF8, without("size"), {"smtputf8": True}, ANN, b" SMTPUTF8 BODY=8BITMIME"),
    (UTF8, without("size"), {}, ANN, b" BODY=8BITMIME"),  # old 8-bit mail, not declared as SMTPUTF8
    (UTF8, without("smtputf8"), {"smtputf8": True}, ANN, reply.UTF8_HOP),  # RFC 6531 §3.5
    (SEVEN, without("smtputf8"), {"smtputf8": True}, JOSE, reply.UTF8_HOP),
    (SEVEN, without("smtputf8"), {"smtputf8": True, "reverse_path": JOSE}, ANN, reply.UTF8_HOP),
]


@pytest.mark.parametrize(("content", "extensions", "changes", "recipient", "expected"), PARAMETERS)
def test_mail_parameters(
    content: bytes, extensions: dict[str, str], changes: dict[str, object], recipient: Address, expected: object
) -> None:
    envelope = dataclasses.replace(Envelope("id", CLIENT, SENDER), **changes)
    message, paths = Message.parse(content), [str(one).encode() for one in (envelope.reverse_path, recipient)]
    found = mail_parameters(extensions, envelope, paths, message, [*message.chunks()])
    if isinstance(expected, bytes):
        assert found == expected
    else:
        assert isinstance(found, Verdict)
        assert (found.result, found.reply) == (Result.PERMANENT, expected)


async def test_what_the_hop_cannot_take_costs_it_no_command_and_no_connection() -> None:
    async with FakeHop(extensions=("SIZE 10",)) as fake:
        sending = Sending(fake.port)
        for _ in range(2):
            (outcome,) = await sending.deliver(ANN)
            assert str(outcome.reply).startswith("552 5.3.4 ")
        await sending.close()
        assert fake.commands == [EHLO, QUIT]


ADDRESSES = [
    Address('"a b"', "example.com"),
    Address('"a\\"b>"', "example.com"),
    Address("Mixed.Case", "Example.COM"),
    Address("a%b!c", "[192.0.2.1]"),
    Address("x", "[IPv6:2001:db8::1]"),
    Address("josé", "münchen.example"),
    Address("Postmaster", ""),
]


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
async def test_an_address_leaves_as_it_was_written(address: Address) -> None:
    def change(envelope: Envelope) -> None:
        envelope.smtputf8 = True
        envelope.reverse_path = address

    async with FakeHop() as fake:
        sending = Sending(fake.port)
        await sending.deliver(address, change=change)
        await sending.close()
        wire = str(address).encode()
        assert any(command.startswith(b"MAIL FROM:<" + wire + b"> ") for command in fake.commands)
        assert b"RCPT TO:<" + wire + b">" in fake.commands


async def test_the_null_reverse_path() -> None:
    def change(envelope: Envelope) -> None:
        envelope.reverse_path = None

    async with FakeHop(extensions=()) as fake:
        sending = Sending(fake.port)
        await sending.deliver(ANN, change=change)
        await sending.close()
        assert fake.commands[1] == b"MAIL FROM:<>"


async def test_a_hop_that_closes_at_quit_or_is_silent_is_no_trouble() -> None:
    for script in ({"quit": Close()}, {"quit": Stall()}):
        async with FakeHop(script) as fake:
            sending = Sending(fake.port, quit=0.2)
            await sending.deliver(ANN)
            await sending.close()
            assert sending.hop.connections == 0

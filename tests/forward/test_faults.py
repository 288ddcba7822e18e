"""A next hop that misbehaves: eight stages, nine faults, and what the mail's sender is to hear.

What is expected follows from RFC 5321: a 4yz or 5yz is the server's word on the command it answers
(§4.2.1), so before MAIL it says nothing about the mail; 421 announces that the server goes away
(§3.8), while the relay itself stays; silence or a cut after the final dot leaves open who has the
mail (§4.5.3.2.6, RFC 1047).
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import pytest

from relay.config.hop import HopTls
from relay.outcome import Result
from tests.support.certificates import Certificates, make_certificates
from tests.support.fake_hop import EXTENSIONS, Action, Close, Endless, FakeHop, Raw, Reply, Stall
from tests.support.sending import ANN, CONTENT, Sending

SET_UP = ("greeting", "ehlo", "starttls", "auth")
COMMANDS = ("mail", "rcpt", "data")
DOT = ("dot",)

GOOD = {
    "greeting": "220 hop.example ESMTP",
    "ehlo": "250-hop.example\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250-PIPELINING\r\n250 SIZE 1000000",
    "starttls": "220 2.0.0 go ahead",
    "auth": "235 2.7.0 welcome",
    "mail": "250 2.1.0 sender ok",
    "rcpt": "250 2.1.5 recipient ok",
    "data": "354 go on",
    "dot": "250 2.0.0 taken",
}


@dataclass(frozen=True)
class Row:
    fault: str
    action: Action | None  # None: the good reply, in slices of one octet
    stages: tuple[str, ...]
    result: Result
    says: str  # how the reply to the client begins


GARBAGE = Raw(b"\x00\xff<html>what?</html>\r\n")
LONG_LINE = Raw(b"250 " + b"x" * 2**20 + b"\r\n")
MULTILINE = Endless(b"250-and so on\r\n")

ROWS = (
    Row("close", Close(), SET_UP + COMMANDS, Result.TEMPORARY, "451 4.4.0 "),
    Row("close", Close(), DOT, Result.AMBIGUOUS, "451 4.4.0 "),
    Row("421", Raw(b"421 4.3.2 going down\r\n", close=True), SET_UP, Result.TEMPORARY, "451 4.4.0 "),
    Row("421", Raw(b"421 4.3.2 going down\r\n", close=True), COMMANDS + DOT, Result.TEMPORARY, "451 4.3.2 going down"),
    Row("4xx", Reply("450 4.2.1 not now"), SET_UP, Result.TEMPORARY, "451 4.4.0 "),
    Row("4xx", Reply("450 4.2.1 not now"), COMMANDS + DOT, Result.TEMPORARY, "450 4.2.1 not now"),
    Row("5xx", Reply("550 5.7.1 never"), SET_UP, Result.TEMPORARY, "451 4.4.0 "),
    Row("5xx", Reply("550 5.7.1 never"), COMMANDS + DOT, Result.PERMANENT, "550 5.7.1 never"),
    Row("stall", Stall(), SET_UP + COMMANDS, Result.TEMPORARY, "451 4.4.2 "),
    Row("stall", Stall(), DOT, Result.AMBIGUOUS, "451 4.4.2 "),
    Row("garbage", GARBAGE, SET_UP + COMMANDS, Result.TEMPORARY, "451 4.4.0 "),
    Row("garbage", GARBAGE, DOT, Result.AMBIGUOUS, "451 4.4.0 "),
    Row("slices", None, SET_UP + COMMANDS + DOT, Result.DELIVERED, "250 2.0.0 taken"),
    Row("1 MB line", LONG_LINE, SET_UP + COMMANDS, Result.TEMPORARY, "451 4.4.0 "),
    Row("1 MB line", LONG_LINE, DOT, Result.AMBIGUOUS, "451 4.4.0 "),
    Row("endless multiline", MULTILINE, SET_UP + COMMANDS, Result.TEMPORARY, "451 4.4.0 "),
    Row("endless multiline", MULTILINE, DOT, Result.AMBIGUOUS, "451 4.4.0 "),
)
_TIMEOUT = {"dot": "final_dot"}
CELLS = [(stage, row) for row in ROWS for stage in row.stages]
assert len(CELLS) == len({(stage, row.fault) for stage, row in CELLS}) == 8 * 9


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain, certificates.key)
    return context


@pytest.mark.parametrize(("stage", "row"), CELLS, ids=[f"{stage}-{row.fault}" for stage, row in CELLS])
async def test_a_fault_at_a_stage(stage: str, row: Row, certificates: Certificates) -> None:
    action = row.action or Reply(GOOD[stage], slices=True)
    async with FakeHop({stage: action}, tls=server_context(certificates), login=True) as fake:
        sending = Sending(
            fake.port,
            phase=10.0,  # far away; only the stage that stalls is short
            **({} if row.fault != "stall" else {_TIMEOUT.get(stage, stage): 0.2}),
            tls=HopTls.REQUIRED,
            ca=certificates.ca,
            username="relay",
            password="secret",
        )
        async with asyncio.timeout(5):  # the worker is free long before the other phases end
            (outcome,) = await sending.deliver(ANN)
        assert outcome.result is row.result
        assert str(outcome.reply).startswith(row.says)
        assert bool(outcome.cause) is (row.result is not Result.DELIVERED)
        await sending.close()
        await fake.all_closed()
        assert sending.hop.connections == 0
        if row.result is not Result.AMBIGUOUS:  # which is just what nobody knows then
            assert fake.accepted == [CONTENT] * (row.result is Result.DELIVERED)


@pytest.mark.parametrize(
    ("stage", "row"),
    [cell for cell in CELLS if cell[0] in COMMANDS],
    ids=[f"{stage}-{row.fault}" for stage, row in CELLS if stage in COMMANDS],
)
async def test_the_same_without_pipelining(stage: str, row: Row) -> None:
    action = row.action or Reply(GOOD[stage], slices=True)
    async with FakeHop({stage: action}, extensions=EXTENSIONS[1:]) as fake:
        sending = Sending(fake.port, phase=10.0, **({} if row.fault != "stall" else {stage: 0.2}))
        async with asyncio.timeout(5):
            (outcome,) = await sending.deliver(ANN)
        assert outcome.result is row.result
        assert str(outcome.reply).startswith(row.says)
        await sending.close()
        await fake.all_closed()
        assert sending.hop.connections == 0


@pytest.mark.parametrize("stage", SET_UP)
async def test_a_5xx_before_mail_is_an_error_of_ours(stage: str, certificates: Certificates) -> None:
    async with FakeHop({stage: Reply("550 5.7.1 never")}, tls=server_context(certificates), login=True) as fake:
        sending = Sending(fake.port, tls=HopTls.REQUIRED, ca=certificates.ca, username="relay", password="secret")
        await sending.deliver(ANN)
        trouble = [fact for fact in sending.facts if fact.event == "forward.trouble"]
        assert [fact.level for fact in trouble] == ["error"]
        assert trouble[0].values["cause"].startswith(f"{stage}: 550")
        await sending.close()


async def test_after_a_refusal_before_mail_we_take_our_leave() -> None:
    for stage in ("ehlo", "auth"):
        async with FakeHop({stage: Reply("550 5.7.1 never")}, login=True) as fake:
            sending = Sending(fake.port, username="relay", password="secret")
            await sending.deliver(ANN)
            await fake.all_closed()
            assert fake.commands[-1] == b"QUIT"


async def test_a_second_reply_to_ehlo_is_not_the_answer_to_the_login() -> None:
    ehlo = Raw(b"250-hop.example\r\n250 AUTH PLAIN\r\n235 2.7.0 welcome\r\n")
    async with FakeHop({"ehlo": ehlo, "auth": Reply("535 5.7.8 wrong")}) as fake:
        sending = Sending(fake.port, username="relay", password="secret")
        (outcome,) = await sending.deliver(ANN)
        assert (outcome.result, outcome.cause) == (Result.TEMPORARY, "ehlo: more than one reply")
        assert not any(command.startswith(b"AUTH") for command in fake.commands)


async def test_a_hop_that_echoes_the_password_does_not_get_it_into_the_log(certificates: Certificates) -> None:
    secret = "AHJlbGF5AHNlY3JldA=="  # \0relay\0secret
    async with FakeHop(
        {"auth": Reply(f"535 5.7.8 AUTH PLAIN {secret} is wrong, secret")}, tls=server_context(certificates), login=True
    ) as fake:
        sending = Sending(fake.port, tls=HopTls.REQUIRED, ca=certificates.ca, username="relay", password="secret")
        (outcome,) = await sending.deliver(ANN)
        assert any(secret.encode() in command for command in fake.commands), "the hop was to know it"
        assert "secret" not in f"{sending.facts} {outcome}"
        assert secret not in f"{sending.facts} {outcome}"
        await sending.close()


# --- between 354 and our dot -------------------------------------------------------------------------

BIG = b"Subject: big\r\n\r\n" + b"x" * 76 + b"\r\n" + (b"y" * 76 + b"\r\n") * 200_000  # 15 MB, more than any buffer


@pytest.mark.parametrize(
    ("action", "result", "says"),
    [
        # An early refusal is the hop's word (RFC 5321 §4.2.5: at any time), and our dot is not sent.
        (Raw(b"552 5.3.4 too big\r\n", close=True), Result.PERMANENT, "552 5.3.4 too big"),
        (Raw(b"452 4.3.1 disk full\r\n", close=True), Result.TEMPORARY, "452 4.3.1 disk full"),
        # A 250 for content that is not all there is no acceptance.
        (Raw(b"250 2.0.0 taken\r\n"), Result.TEMPORARY, "451 4.4.0 "),
        (Raw(b"junk\r\n"), Result.TEMPORARY, "451 4.4.0 "),
        (Close(), Result.TEMPORARY, "451 4.4.0 "),
    ],
)
async def test_while_the_content_is_being_sent(action: Action, result: Result, says: str) -> None:
    async with FakeHop({"content": action}, extensions=("PIPELINING",)) as fake:
        sending = Sending(fake.port)
        (outcome,) = await sending.deliver(ANN, content=BIG)
        assert outcome.result is result
        assert str(outcome.reply).startswith(says)
        await sending.close()
        await fake.all_closed()
        assert fake.accepted == []


async def test_a_hop_that_does_not_read_on_holds_us_for_one_block_only() -> None:
    class Deaf(FakeHop):
        async def _content(self, session: object, reader: object, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()
            await asyncio.Event().wait()

    async with Deaf(extensions=("PIPELINING",)) as fake:
        sending = Sending(fake.port, data_block=0.2)
        (outcome,) = await sending.deliver(ANN, content=BIG)
        assert (outcome.result, str(outcome.reply)[:10]) == (Result.TEMPORARY, "451 4.4.2 ")
        assert outcome.cause.startswith("content: ")
        await sending.close()

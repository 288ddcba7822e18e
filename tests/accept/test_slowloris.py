"""Two hundred clients that hold on, while good mail flows (R18): all good mail arrives, all bad clients end."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from relay.accept import data
from tests.support.certificates import Certificates
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
BAD, GOOD = 200, 100


async def silent(client: SmtpClient) -> None:
    pass


async def dripping_command(client: SmtpClient) -> None:
    while True:
        client.send(b"E")
        await asyncio.sleep(0.1)


async def dripping_message(client: SmtpClient) -> None:
    client.send(b"\r\n".join([*OPEN, b"DATA", b""]))
    while True:
        await asyncio.sleep(0.1)
        client.send(b"x")


async def chatting(client: SmtpClient) -> None:
    while True:
        client.send(b"NOOP\r\n")
        await asyncio.sleep(0.02)


async def taking_no_replies(client: SmtpClient) -> None:
    client.stop_reading()
    client.send(b"NOOP\r\n" * 101)  # its junk budget; the goodbye is never taken


async def stalling_handshake(client: SmtpClient) -> None:
    client.send(b"EHLO client.test\r\nSTARTTLS\r\n")
    await client.read()
    await client.read()
    client.send(b"\x16\x03\x01\x02")


KINDS: list[Callable[[SmtpClient], Awaitable[None]]] = [
    silent,
    dripping_command,
    dripping_message,
    chatting,
    taking_no_replies,
    stalling_handshake,
]


@pytest.mark.timeout(120)
async def test_good_mail_flows_and_the_others_end(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.accept.upload.seconds_for_block", partial(data.seconds_for_block, grace=0.5))
    stages = Scripted()
    tables = {
        "listener": {
            "capture": {
                "role": "capture",
                "tls": "starttls",
                "certificate": str(certificates.chain),
                "key": str(certificates.key),
            }
        },
        "timeout": {"command": "2s", "data_idle": "1s", "tls_handshake": "1s", "write": "1s"},
        "limit": {"connections": BAD + 10},
    }

    async def hold_on(number: int) -> None:
        async with smtp_client(relay.address("capture"), patience=60) as client:
            assert code(await client.read()) == "220"
            held.append(number)
            act = asyncio.ensure_future(KINDS[number % len(KINDS)](client))
            try:
                await client.ended()
            finally:
                act.cancel()
                await asyncio.gather(act, return_exceptions=True)

    async def deliver(number: int) -> str:
        async with smtp_client(relay.address("capture"), patience=60) as client:
            await client.read()
            await client.converse(*OPEN, b"DATA")
            return code(await client.say(b"good %d\r\n." % number))

    held: list[int] = []
    async with listening(stages, tables) as relay:
        bad = [asyncio.ensure_future(hold_on(number)) for number in range(BAD)]
        await relay.until(lambda: len(held) == BAD)
        answers = [await deliver(number) for number in range(GOOD)]
        assert answers == ["250 2.0.0"] * GOOD
        assert sorted(stages.contents) == sorted(b"good %d\r\n" % number for number in range(GOOD))
        await asyncio.gather(*bad)
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert {str(fact.values["why"]) for fact in relay.of("refused")} == {"idle", "junk", "slow message"}
        assert any("failed" in fact.values for fact in relay.of("tls"))
        assert relay.listeners.load.memory == 0

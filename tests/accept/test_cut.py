"""The client goes away, at every octet of a session (R8): received iff the dot was complete."""

import asyncio

import pytest

from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Listening, Scripted, listening

BODY = b"Subject: cut\r\n\r\n" + b"".join(
    b"line %02d of the message, which is cut somewhere\r\n" % n for n in range(17)
)
SESSION = [
    b"EHLO client.test\r\n",
    b"MAIL FROM:<ann@example.org>\r\n",
    b"RCPT TO:<bob@example.net>\r\n",
    b"DATA\r\n",
    BODY + b".\r\n",
    b"QUIT\r\n",
]
STREAM = b"".join(SESSION)
DOT = len(STREAM) - len(SESSION[-1])  # octets up to and with the final dot's CRLF


async def cut_at(relay: Listening, octets: int, leave: str) -> list[str]:
    """Send `octets` of the session, each command after the reply to the one before; then leave."""
    async with smtp_client(relay.address("capture")) as client:
        replies = [await client.read()]
        left = octets
        for command in SESSION:
            client.send(command[:left])
            left -= len(command)
            if left <= 0:
                break
            replies.append(await client.read())
        await client.sent()
        if leave == "reset":
            client.reset()
        else:
            client.half_close()
            replies += await client.rest()
        return replies


@pytest.mark.timeout(240)
@pytest.mark.parametrize("leave", ["reset", "half-close"])
async def test_received_if_and_only_if_the_dot_was_complete(leave: str) -> None:
    stages = Scripted()
    async with listening(stages) as relay:
        assert 850 <= len(STREAM) <= 1000
        for octets in range(len(STREAM) + 1):
            stages.received.clear()
            replies = await cut_at(relay, octets, leave)
            await relay.until(lambda: relay.listeners.load.connections == 0)
            assert stages.contents == ([BODY] if octets >= DOT else []), octets
            if leave == "half-close" and octets == DOT:
                assert code(replies[5]) == "250 2.0.0"
            assert relay.listeners.load.memory == 0
        assert relay.of("trouble") == []


@pytest.mark.parametrize("leave", ["reset", "half_close"])
async def test_what_was_begun_goes_on_when_the_client_leaves_behind_the_dot(leave: str) -> None:
    """Reliability §0.1."""
    stages = Scripted()
    stages.gate = asyncio.Event()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        for command in SESSION[:-1]:
            await client.read()
            client.send(command)
        await stages.arrived.wait()
        getattr(client, leave)()
        if leave == "reset":
            await relay.until(lambda: relay.listeners.load.connections == 0)
        else:
            [service] = [one for one in relay.listeners._services if one.connections]
            [connection] = service.connections
            await relay.until(lambda: connection._is_at_end)  # type: ignore[attr-defined]
        stages.gate.set()
        if leave == "half_close":
            assert [code(text) for text in await client.rest()] == ["250 2.0.0"]
            assert relay.of("unheard") == []
        else:
            await relay.until(lambda: bool(relay.of("unheard")))
            assert str(relay.of("unheard")[0].values["reply"]).startswith("250 2.0.0")
    assert [(content, reply.code) for content, reply in stages.untold] == [(BODY, 250)]


async def test_a_whole_session_in_one_segment_then_gone_is_received() -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        client.send(STREAM)
        await client.sent()
        client.half_close()
        assert [code(text) for text in await client.rest()] == [
            *("220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0")
        ]
    assert stages.contents == [BODY]
    assert stages.untold == []  # it had said all of it beforehand, and reads on

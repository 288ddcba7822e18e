"""How long anything may take (D2), and how long clients are held back on purpose (D1)."""

import asyncio
from typing import Any

import pytest

from relay.accept.smtp import Smtp
from tests.support.certificates import Certificates
from tests.support.peers import PATIENCE
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]


def tables(listener: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"listener": {"capture": {"role": "capture"} | (listener or {})}, **more}


@pytest.mark.parametrize("said", [[], [b"EHLO client.test\r\n"], [b"EHLO client.test\r\n", b"MAIL FROM:<ann@"]])
async def test_a_silent_client_gets_421(said: list[bytes]) -> None:
    async with (
        listening(Scripted(), tables(timeout={"command": "200ms"})) as relay,
        smtp_client(relay.address("capture")) as client,
    ):
        for octets in said:
            client.send(octets)
        assert code((await client.rest())[-1]) == "421 4.4.2"
        (fact,) = relay.of("refused")
        assert fact.values["why"] == "idle"


async def test_octets_of_a_command_do_not_move_its_deadline_for_ever() -> None:
    """A client that sends one octet now and then is not waited for beyond an endless line's bound or the deadline."""
    async with (
        listening(Scripted(), tables(timeout={"command": "300ms"})) as relay,
        smtp_client(relay.address("capture")) as client,
    ):
        await client.read()
        drip = asyncio.ensure_future(_drip(client, 0.05))
        try:
            assert [code(text) for text in await client.rest()] == ["421 4.4.2"]
        finally:
            drip.cancel()


async def _drip(client: Any, seconds: float) -> None:
    while True:
        client.send(b"N")
        await asyncio.sleep(seconds)


async def test_under_load_patience_is_shorter() -> None:
    given = tables(timeout={"command": "1 h"}, stress={"command": "200ms"}, limit={"connections": 1})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        assert [code(text) for text in await client.rest()] == ["220", "421 4.4.2"]


async def test_a_message_that_stalls_gets_421_and_is_forgotten() -> None:
    stages = Scripted()
    async with (
        listening(stages, tables(timeout={"data_idle": "200ms"})) as relay,
        smtp_client(relay.address("capture")) as client,
    ):
        await client.read()
        await client.converse(*OPEN, b"DATA")
        client.send(b"half a message\r\n")
        assert [code(text) for text in await client.rest()] == ["421 4.4.2"]
        assert stages.received == []
        assert relay.listeners.load.memory == 0


async def test_a_long_delivery_is_not_cut_by_any_deadline_of_the_client() -> None:
    stages = Scripted()
    stages.gate = asyncio.Event()
    given = tables(timeout={"command": "50ms", "data_idle": "50ms", "write": "50ms"})
    async with listening(stages, given) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN, b"DATA")
        client.send(b"x\r\n.\r\n")
        await stages.arrived.wait()
        # Four idle sessions live and die by the same deadlines meanwhile.
        for _ in range(4):
            async with smtp_client(relay.address("capture")) as other:
                await other.rest()
        stages.gate.set()
        assert code(await client.read()) == "250 2.0.0"


async def test_nor_is_that_of_messages_that_came_in_one_piece_with_their_commands() -> None:
    stages = Scripted()
    gate = stages.gate = asyncio.Event()
    given = tables(timeout={"command": "50ms", "data_idle": "50ms", "write": "50ms"})
    async with listening(stages, given) as relay, smtp_client(relay.address("capture")) as client:
        message = [*OPEN[1:], b"DATA", b"x", b"."]
        client.send(b"\r\n".join([OPEN[0], *message, *message, b""]))
        assert [code(await client.read()) for _ in range(5)] == ["220", "250", "250 2.1.0", "250 2.1.5", "354"]
        await stages.arrived.wait()
        for _ in range(4):
            async with smtp_client(relay.address("capture")) as other:
                await other.rest()
        stages.arrived.clear()
        first, gate = gate, asyncio.Event()
        stages.gate = gate
        first.set()
        assert [code(await client.read()) for _ in range(4)] == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354"]
        await stages.arrived.wait()
        for _ in range(4):
            async with smtp_client(relay.address("capture")) as other:
                await other.rest()
        gate.set()
        assert code(await client.read()) == "250 2.0.0"


@pytest.mark.parametrize("ending", ["replies", "goodbye"])
async def test_a_client_that_takes_no_replies_is_cut(ending: str) -> None:
    """D2: a zero window, in the middle and at the end of a session."""
    given = tables(timeout={"write": "200ms"}, limit={"junk": 10**6 if ending == "replies" else 20_000})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        client.stop_reading()
        client.send(b"EHLO x\r\n" * (200_000 if ending == "replies" else 20_001))
        await relay.until(lambda: relay.listeners.load.connections == 1)
        await relay.until(lambda: relay.listeners.load.connections == 0)


class Stuck:
    """A transport whose `close` never ends though nothing is left to write: TLS above a full socket, on uvloop."""

    def __init__(self) -> None:
        self.aborted = asyncio.Event()

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted.set()


async def test_a_farewell_that_does_not_end_is_cut() -> None:
    async with listening(Scripted(), tables(timeout={"write": "50ms"})) as relay:
        transport, session = Stuck(), Smtp(relay.listeners._services[0])
        session.connection_made(transport)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        session.data_received(b"QUIT\r\n")
        async with asyncio.timeout(PATIENCE):
            await transport.aborted.wait()
        session.connection_lost(None)


async def test_the_greeting_waits_and_a_patient_client_gets_it() -> None:
    given = tables(delay={"greeting": {"capture": "200ms"}, "skip": []})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        await relay.until(lambda: relay.listeners.load.sleeping == 1)
        assert code(await client.read()) == "220"
        assert relay.listeners.load.sleeping == 0


async def test_an_early_talker_is_refused() -> None:
    given = tables(delay={"greeting": {"capture": "1 h"}, "skip": []})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        client.send(b"EHLO client.test\r\n")
        assert [code(text) for text in await client.rest()] == ["554 5.5.0"]
        assert relay.of("refused")[0].values["why"] == "early talker"
        assert relay.listeners.load.sleeping == 0


async def test_an_early_talker_may_be_only_logged() -> None:
    given = tables(delay={"greeting": {"capture": "200ms"}, "skip": [], "early_talker": "log"})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        client.send(b"EHLO client.test\r\n")
        assert [code(await client.read()) for _ in range(2)] == ["220", "250"]
        assert len(relay.of("early_talker")) == 1


async def test_a_client_hello_is_no_early_talk_on_implicit_tls(certificates: Certificates) -> None:
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    given = tables({"tls": "implicit", **pair}, delay={"greeting": {"capture": "50ms"}, "skip": []})
    context = certificates.client_context()
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture"), tls=context) as client:
        assert code(await client.read()) == "220"


@pytest.mark.parametrize(
    "delay",
    [
        {"greeting": {"capture": "1 h"}},  # loopback is skipped by default
        {"greeting": {"capture": "1 h"}, "skip": [], "max_sleeping": 0},
        {"greeting": {"gateway": "1 h"}, "skip": []},
    ],
)
async def test_who_is_not_held_back(delay: dict[str, Any]) -> None:
    async with listening(Scripted(), tables(delay=delay)) as relay, smtp_client(relay.address("capture")) as client:
        assert code(await client.read()) == "220"


async def test_above_the_cap_of_sleepers_nobody_waits() -> None:
    given = tables(delay={"greeting": {"capture": "1 h"}, "skip": [], "max_sleeping": 1})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")):
        await relay.until(lambda: relay.listeners.load.sleeping == 1)
        async with smtp_client(relay.address("capture")) as client:
            assert code(await client.read()) == "220"


async def test_errors_are_answered_at_once_only_so_often_and_a_sleeper_wakes_when_its_client_goes() -> None:
    given = tables(delay={"error": "1 h", "error_after": 2, "skip": []})
    async with listening(Scripted(), given) as relay:
        async with smtp_client(relay.address("capture")) as client:
            await client.read()
            assert await client.converse(b"FOO", b"FOO") == ["500 5.5.1"] * 2
            client.send(b"FOO\r\nNOOP\r\n")
            await relay.until(lambda: relay.listeners.load.sleeping == 1)
        await relay.until(lambda: relay.listeners.load.sleeping == 0)
        await relay.until(lambda: relay.listeners.load.connections == 0)


async def test_held_back_answers_come_in_the_end_and_in_order() -> None:
    given = tables(delay={"error": "100ms", "error_after": 0, "skip": []})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        client.send(b"NOOP\r\nFOO\r\nNOOP\r\nBAR\r\nQUIT\r\n")
        assert [code(text) for text in await client.rest()] == [
            *("220", "250 2.0.0", "500 5.5.1", "250 2.0.0", "500 5.5.1", "221 2.0.0")
        ]

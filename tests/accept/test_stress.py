"""Under load the same settings are harsher, never milder, and it is said when that begins and ends."""

import asyncio
from typing import Any

import pytest

from relay.accept.limits import Patience, patience
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, configured, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]


def tables(**more: Any) -> dict[str, Any]:
    return {"listener": {"capture": {"role": "capture"}}, **more}


def test_the_harsher_of_two() -> None:
    given = tables(
        timeout={"command": "100s", "data_idle": "10s"},
        limit={"errors": 5, "junk": 50, "login_failures": 2},
        stress={"command": "50s", "data_idle": "20s", "errors": 9, "junk": 9, "login_failures": 9},
    )
    quiet, hurried = patience(configured(given))
    assert quiet == Patience(100.0, 10.0, 5, 50, 2)
    assert hurried == Patience(50.0, 10.0, 5, 9, 2)


FULL = {"limit": {"connections": 2}, "stress": {"above": 50}}  # one client is 50 %, two are more


async def test_errors_and_junk_weigh_more() -> None:
    stress = {"above": 50, "errors": 2, "junk": 3}
    async with (
        listening(Scripted(), tables(limit={"connections": 2}, stress=stress)) as relay,
        smtp_client(relay.address("capture")) as one,
    ):
        await one.read()
        assert await one.converse(*[b"FOO"] * 3) == ["500 5.5.1"] * 3
        async with smtp_client(relay.address("capture")) as two:
            two.send(b"NOOP\r\n" * 5)
            assert [code(text) for text in await two.rest()] == ["220", *["250 2.0.0"] * 4, "421 4.7.0"]
        await relay.until(lambda: relay.listeners.load.connections == 1)
        # Quiet again.
        assert await one.converse(b"FOO", OPEN[0], *[b"NOOP"] * 4) == ["500 5.5.1", "250", *["250 2.0.0"] * 4]
        async with smtp_client(relay.address("capture")):
            await relay.until(lambda: relay.listeners.load.connections == 2)
            assert await one.converse(OPEN[1]) == ["250 2.1.0"]  # what was before ends no good command
            one.send(b"FOO\r\n")
            assert [code(text) for text in await one.rest()] == ["500 5.5.1", "421 4.7.0"]


async def test_a_session_that_waits_already_keeps_its_time_and_the_next_wait_is_shorter() -> None:
    given = tables(limit={"connections": 1}, stress={"above": 1, "data_idle": "200ms"}, timeout={"data_idle": "1 h"})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN, b"DATA")
        client.send(b"half a message\r\n")
        assert [code(text) for text in await client.rest()] == ["421 4.4.2"]


async def test_it_is_said_when_it_begins_and_when_it_ends() -> None:
    async with listening(Scripted(), tables(**FULL)) as relay:
        address = relay.address("capture")
        async with smtp_client(address) as one:
            await one.read()
            assert relay.of("stress") == []
            async with smtp_client(address) as two:
                await two.read()
                assert [fact.values["on"] for fact in relay.of("stress")] == [True]
                assert [fact.level for fact in relay.of("stress")] == ["warning"]
            await relay.until(lambda: relay.listeners.load.connections == 1)
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert [fact.values for fact in relay.of("stress")] == [
            {"on": True, "connections": 2},
            {"on": False, "connections": 1},
        ]


@pytest.mark.parametrize("refused", [True, False])
async def test_each_connection_that_is_counted_is_connected_once_and_closed_once(refused: bool) -> None:
    given = tables(limit={"connections": 5 if refused else 50})
    async with listening(Scripted(), given) as relay:

        async def come_and_go() -> None:
            async with smtp_client(relay.address("capture")) as client:
                await client.read()

        await asyncio.gather(*(come_and_go() for _ in range(20)))
        await relay.until(lambda: relay.listeners.load.connections == 0)
        connected, closed = relay.of("connected"), relay.of("closed")
        assert sorted(fact.id for fact in connected) == sorted(fact.id for fact in closed)
        assert len(connected) + len(relay.of("refused")) == 20

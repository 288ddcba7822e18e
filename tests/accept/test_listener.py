"""Binding all or nothing, and stopping in order."""

import asyncio
import socket
from typing import Any

import pytest

from relay.accept.listener import Listeners
from relay.clock import SystemClock
from relay.config.models import Config
from relay.errors import ConfigError
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening, until

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]


def listeners(tables: dict[str, Any]) -> Listeners:
    config = Config.model_validate({"hostname": "relay.test", "listener": tables})
    return Listeners(config, Scripted(), None, SystemClock(), lambda fact: None)


async def test_a_port_in_use_names_its_key_and_leaves_nothing_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
        probe.close()
        taken = other.getsockname()[1]
        bound = listeners({"one": {"role": "capture", "port": free}, "two": {"role": "capture", "port": taken}})
        with pytest.raises(ConfigError) as caught:
            await bound.start()
        (problem,) = caught.value.problems
        assert problem.key == "listener.two.port"
        assert "in use" in problem.text
        assert bound.addresses == {}
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)


async def test_a_certificate_that_cannot_be_read_names_its_key(tmp_path: Any) -> None:
    bad = {"role": "capture", "port": 0, "tls": "starttls", "certificate": str(tmp_path / "absent.pem")}
    with pytest.raises(ConfigError) as caught:
        await listeners({"one": bad}).start()
    assert caught.value.problems[0].key == "listener.one.certificate"


async def test_stopping_idle_sessions_get_421_and_nobody_new_comes_in() -> None:
    async with listening(Scripted()) as relay:
        address = relay.address("capture")
        async with smtp_client(address) as idle, smtp_client(address) as between:
            await idle.read()
            await between.read()
            await between.converse(*OPEN)
            await relay.listeners.drain(20)
            assert [code(text) for text in await idle.rest()] == ["421 4.3.2"]
            assert [code(text) for text in await between.rest()] == ["421 4.3.2"]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)


async def test_stopping_sleepers_get_421() -> None:
    given = {"listener": {"capture": {"role": "capture"}}, "delay": {"greeting": {"capture": "1 h"}, "skip": []}}
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        await relay.until(lambda: relay.listeners.load.sleeping == 1)
        await relay.listeners.drain(20)
        assert [code(text) for text in await client.rest()] == ["421 4.3.2"]


async def test_stopping_a_message_that_is_being_sent_may_come_to_its_end() -> None:
    stages = Scripted()
    async with listening(stages) as relay:
        async with smtp_client(relay.address("capture")) as client:
            await client.read()
            await client.converse(*OPEN, b"DATA")
            client.send(b"first half\r\n")
            drained = asyncio.ensure_future(relay.listeners.drain(20))
            await until(lambda: all(service.is_draining for service in relay.listeners._services))
            client.send(b"second half\r\n.\r\n" + OPEN[1] + b"\r\n")
            assert [code(text) for text in await client.rest()] == ["250 2.0.0", "421 4.3.2"]
        await drained
    assert stages.contents == [b"first half\r\nsecond half\r\n"]


async def test_stopping_a_message_that_does_not_end_gets_421_when_the_time_is_up() -> None:
    stages = Scripted()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN, b"DATA")
        client.send(b"first half\r\n")
        await relay.listeners.drain(0.1)
        assert [code(text) for text in await client.rest()] == ["421 4.3.2"]
    assert stages.received == []


@pytest.mark.parametrize("stays", [True, False])
async def test_stopping_waits_for_what_was_handed_on_longer_than_it_says(stays: bool) -> None:
    stages = Scripted()
    stages.gate = asyncio.Event()
    async with listening(stages) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN, b"DATA")
        client.send(b"x\r\n.\r\n")
        await stages.arrived.wait()
        if not stays:
            client.reset()
        drained = asyncio.ensure_future(relay.listeners.drain(0.05))
        done, _ = await asyncio.wait([drained], timeout=0.3)
        assert not done
        stages.gate.set()
        await drained
        if stays:
            assert [code(text) for text in await client.rest()] == ["250 2.0.0", "421 4.3.2"]
    assert len(stages.received) == 1

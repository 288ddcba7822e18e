"""New settings while the listeners listen: new sessions have them, open ones keep theirs, or nothing changes (R29)."""

import asyncio
import socket
from base64 import b64encode
from pathlib import Path
from typing import Any

import argon2
import pytest

from relay.accept.login import Logins, check_argon2
from relay.config import models
from relay.errors import ConfigError
from tests.support.certificates import Certificates, make_certificates
from tests.support.clock import JumpingClock
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Listening, Scripted, configured, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
OPENED = ["250", "250 2.1.0", "250 2.1.5"]
BODY = [b"DATA", b"x\r\n."]


def tables(**more: Any) -> dict[str, Any]:
    return {"listener": {"capture": {"role": "capture"}}, **more}


async def send(address: tuple[str, int]) -> list[str]:
    async with smtp_client(address) as client:
        return [code(await client.read()), *await client.converse(*OPEN, *BODY)]


async def test_an_open_session_keeps_what_it_began_with_and_a_new_one_has_the_new() -> None:
    old, new = Scripted(), Scripted()
    async with listening(old, tables()) as relay, smtp_client(relay.address("capture")) as client:
        address = relay.address("capture")
        assert await client.read() == "220 relay.test ESMTP relay"
        assert await client.converse(*OPEN[:2]) == OPENED[:2]
        changed = tables(hostname="new.test")
        changed["listener"]["capture"]["max_message_size"] = "1 KiB"
        await relay.listeners.replace(configured(changed), new, None)
        assert relay.address("capture") == address
        # The transaction goes on in the old stages; so does the next one of this session.
        assert await client.converse(OPEN[2], *BODY) == ["250 2.1.5", "354", "250 2.0.0"]
        assert await client.converse(OPEN[1] + b" SIZE=5000", OPEN[2], *BODY) == [*OPENED[1:], "354", "250 2.0.0"]
        async with smtp_client(address) as other:
            assert await other.read() == "220 new.test ESMTP relay"
            assert "SIZE 1024" in await other.say(OPEN[0])
            assert code(await other.say(OPEN[1] + b" SIZE=5000")) == "552 5.3.4"
            assert await other.converse(*OPEN[1:], *BODY) == [*OPENED[1:], "354", "250 2.0.0"]
    assert (len(old.received), len(new.received)) == (2, 1)


@pytest.mark.parametrize("upload", [b"DATA\r\nhalf\r\n", b"BDAT 100\r\nhalf\r\n"])
async def test_a_message_under_way_arrives_where_it_was_sent(upload: bytes) -> None:
    old = Scripted()
    async with listening(old, tables()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN)
        client.send(upload)
        await client.sent()
        await relay.listeners.replace(configured(tables(limit={"memory": "1 MiB"})), Scripted(), None)
        if upload.startswith(b"DATA"):
            assert code(await client.read()) == "354"
            client.send(b"rest\r\n.\r\n")
        else:
            client.send(b"x" * 92 + b"\r\nBDAT 0 LAST\r\n")
            assert code(await client.read()) == "250 2.0.0"
        assert code(await client.read()) == "250 2.0.0"
        assert len(old.received) == 1
        assert relay.listeners.load.memory == 0


async def test_the_old_stages_are_told_when_their_last_session_has_gone() -> None:
    old = Scripted()
    old.gate = asyncio.Event()
    async with listening(old, tables()) as relay:
        async with smtp_client(relay.address("capture")) as client:
            await client.read()
            await client.converse(*OPEN, b"DATA")
            before = await relay.listeners.replace(configured(tables()), Scripted(), None)
            ended = asyncio.ensure_future(before.ended())
            client.send(b"x\r\n.\r\n")
            await old.arrived.wait()
            client.reset()
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert not ended.done()  # its message is still under way
        old.gate.set()
        await ended
        # A later session is none of its business.
        assert (await send(relay.address("capture")))[-1] == "250 2.0.0"
        await before.ended()


async def test_stopping_ends_the_sessions_of_all_configurations() -> None:
    async with listening(Scripted(), tables()) as relay, smtp_client(relay.address("capture")) as first:
        await first.read()
        await relay.listeners.replace(configured(tables()), Scripted(), None)
        await relay.listeners.drain(20)
        assert [code(text) for text in await first.rest()] == ["421 4.3.2"]


async def test_counters_carry_over_and_limits_are_the_new() -> None:
    async with listening(Scripted(), tables(limit={"connections": 5})) as relay:
        address = relay.address("capture")
        async with smtp_client(address) as one:
            await one.read()
            await relay.listeners.replace(configured(tables(limit={"connections": 1})), Scripted(), None)
            assert relay.listeners.load.connections == 1
            async with smtp_client(address) as two:
                assert [code(text) for text in await two.rest()] == ["421 4.7.0"]
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert (await send(address))[-1] == "250 2.0.0"


async def test_a_client_that_was_counted_is_let_go_though_it_is_exempt_now() -> None:
    def gateway(exempt: list[str]) -> dict[str, Any]:
        listener = {"role": "gateway", "domains": ["example.net"], "proxy_from": ["127.0.0.0/8"]}
        return {"listener": {"in": listener}, "limit": {"connections_per_ip": 1, "exempt": exempt}}

    line = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\r\n"
    async with listening(Scripted(), gateway([])) as relay:
        async with smtp_client(relay.address("in")) as one:
            one.send(line)
            assert code(await one.read()) == "220"
            await relay.listeners.replace(configured(gateway(["203.0.113.0/24"])), Scripted(), None)
            async with smtp_client(relay.address("in")) as two:
                two.send(line)
                assert code(await two.read()) == "220"
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert not relay.listeners.load.counts.held


async def test_listeners_come_and_go() -> None:
    async with listening(
        Scripted(), {"listener": {"stays": {"role": "capture"}, "goes": {"role": "capture"}}}
    ) as relay:
        stays, goes = relay.address("stays"), relay.address("goes")
        async with smtp_client(goes) as idle, smtp_client(goes) as sends, smtp_client(stays) as client:
            for one in (idle, sends, client):
                await one.read()
            await sends.converse(*OPEN, b"DATA")
            sends.send(b"half\r\n")
            await relay.until(lambda: any(one.reading for one in connections(relay)))
            changed = {"listener": {"stays": {"role": "capture"}, "comes": {"role": "capture"}}}
            await relay.listeners.replace(configured(changed), Scripted(), None)
            assert set(relay.listeners.addresses) == {"stays", "comes"}
            assert relay.address("stays") == stays
            assert [code(text) for text in await idle.rest()] == ["421 4.3.2"]
            sends.send(b"rest\r\n.\r\nNOOP\r\n")
            assert [code(text) for text in await sends.rest()] == ["250 2.0.0", "421 4.3.2"]
            assert code(await client.say(b"NOOP")) == "250 2.0.0"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*goes)
        assert (await send(relay.address("comes")))[-1] == "250 2.0.0"


def connections(relay: Listening) -> list[Any]:
    return [one for service in relay.listeners._services for one in service.connections]


async def test_a_socket_stays_with_its_port_whatever_its_listener_is_called() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    new = Scripted()
    given = {"listener": {"old": {"role": "capture", "port": port}}}
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("old")) as client:
        await client.read()
        changed = {"listener": {"new": {"role": "submission", "port": port}}}
        await relay.listeners.replace(configured(changed), new, None)
        assert relay.listeners.addresses == {"new": ("127.0.0.1", port)}
        assert (await send(("127.0.0.1", port)))[-1] == "250 2.0.0"
        assert new.received[0][0].client.listener == "new"
        assert code(await client.say(b"NOOP")) == "250 2.0.0"


async def test_if_anything_cannot_be_nothing_changes(tmp_path: Path) -> None:
    stages = Scripted()
    async with listening(stages, tables(limit={"recipients": 200})) as relay:
        before = dict(relay.listeners.addresses)
        absent = {"tls": "starttls", "certificate": str(tmp_path / "absent.pem")}
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            with socket.create_server(("127.0.0.1", 0)) as probe:
                free = probe.getsockname()[1]
            bad = tables(limit={"recipients": 100, "connections": 1})
            bad["listener"] |= {
                "free": {"role": "capture", "port": free},
                "taken": {"role": "capture", "port": taken},
                "absent": {"role": "capture", **absent},
            }
            with pytest.raises(ConfigError) as caught:
                await relay.listeners.replace(configured(bad), Scripted(), None)
        keys = [problem.key for problem in caught.value.problems]
        assert keys == ["listener.taken.port", "listener.absent.certificate"]
        assert relay.listeners.addresses == before
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)
        async with smtp_client(relay.address("capture")) as one, smtp_client(relay.address("capture")) as two:
            assert "RCPTMAX=200" in (await one.read(), await one.say(OPEN[0]))[1]
            assert code(await two.read()) == "220"
        assert (await send(relay.address("capture")))[-1] == "250 2.0.0"
    assert len(stages.received) == 1


async def test_certificates_are_read_anew(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    old, new = make_certificates(tmp_path / "one"), make_certificates(tmp_path / "two")

    def starttls(made: Certificates) -> dict[str, Any]:
        pair = {"certificate": str(made.chain), "key": str(made.key)}
        return {"listener": {"in": {"role": "capture", "tls": "starttls", **pair}}}

    async def secure(client: SmtpClient, made: Certificates) -> None:
        await client.converse(OPEN[0], b"STARTTLS")
        await client.start_tls(made.client_context())
        assert code(await client.say(OPEN[0])) == "250"

    async with (
        listening(Scripted(), starttls(old)) as relay,
        smtp_client(relay.address("in")) as first,
    ):
        await first.read()
        await relay.listeners.replace(configured(starttls(new)), Scripted(), None)
        async with smtp_client(relay.address("in")) as second:
            await second.read()
            await secure(second, new)
        await secure(first, old)


async def test_logins_are_the_new_and_failures_are_remembered() -> None:
    def logins(password: str) -> Logins:
        hashed = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password)
        return Logins(
            {"app": (hashed, ("*",))}, models.Login(), clock=JumpingClock(), key=b"k" * 32, check=check_argon2
        )

    async def log_in(client: SmtpClient, password: str) -> str:
        return code(await client.say(b"AUTH PLAIN " + b64encode(f"\0app\0{password}".encode())))

    given = {"listener": {"in": {"role": "submission", "allow_plaintext_login": True}}, "login": {"failures": 3}}
    one, two = logins("first"), logins("second")
    try:
        async with listening(Scripted(), given, logins=one) as relay, smtp_client(relay.address("in")) as first:
            await first.read()
            await first.say(OPEN[0])
            assert await log_in(first, "second") == "535 5.7.8"
            given["login"]["failures"] = 2
            await relay.listeners.replace(configured(given), Scripted(), two)
            async with smtp_client(relay.address("in")) as second:
                await second.read()
                await second.say(OPEN[0])
                assert await log_in(second, "first") == "535 5.7.8"
                assert await log_in(second, "second") == "454 4.7.0"
    finally:
        one.close()
        two.close()


async def test_twenty_reloads_under_load_lose_nothing() -> None:
    """R29."""
    old = Scripted()
    stages = [old]
    async with listening(old, tables()) as relay:
        address = relay.address("capture")
        is_over = asyncio.Event()

        async def keep_sending() -> list[str]:
            answers = []
            while not is_over.is_set():
                answers.append((await send(address))[-1])
            return answers

        senders = [asyncio.ensure_future(keep_sending()) for _ in range(5)]
        for number in range(20):
            seen = sum(len(one.received) for one in stages)
            await relay.until(lambda seen=seen: sum(len(one.received) for one in stages) > seen + 5)
            if number % 2:
                stages.append(Scripted())
                await relay.listeners.replace(configured(tables()), stages[-1], None)
            else:
                bad = tables()
                bad["listener"]["bad"] = {"role": "capture", "tls": "starttls"}
                with pytest.raises(ConfigError):
                    await relay.listeners.replace(configured(bad), Scripted(), None)
        await relay.until(lambda: bool(stages[-1].received))
        is_over.set()
        answers = [answer for one in await asyncio.gather(*senders) for answer in one]
        assert set(answers) == {"250 2.0.0"}
        assert sum(len(one.received) for one in stages) == len(answers)
        assert all(one.received for one in stages)
        await relay.until(lambda: relay.listeners.load.connections == 0)
        await relay.listeners.replace(configured(tables()), Scripted(), None)
        assert len(relay.listeners._services) == 1  # nothing is kept of the earlier ones

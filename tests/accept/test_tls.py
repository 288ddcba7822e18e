"""STARTTLS and implicit TLS, server side: the rows of reliability §2.2 (R17)."""

import asyncio
import ssl
from typing import Any

import pytest
import uvloop

from tests.support.certificates import Certificates
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]


def tables(certificates: Certificates, tls: str = "starttls", **more: Any) -> dict[str, Any]:
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    top = {key: more.pop(key) for key in ("timeout", "limit", "delay") if key in more}
    return {"listener": {"capture": {"role": "capture", "tls": tls, **pair, **more}}, **top}


async def deliver(certificates: Certificates, tls: str) -> None:
    stages = Scripted()
    body = b"x" * 70 + b"\r\n"
    async with listening(stages, tables(certificates, tls)) as relay:
        context = certificates.client_context()
        async with smtp_client(relay.address("capture"), tls=context if tls == "implicit" else None) as client:
            assert code(await client.read()) == "220"
            if tls == "starttls":
                assert "STARTTLS" in await client.say(b"EHLO client.test")
                assert code(await client.say(b"STARTTLS")) == "220 2.0.0"
                await client.start_tls(context)
            assert "STARTTLS" not in await client.say(b"EHLO client.test")
            await client.converse(*OPEN[1:], b"DATA")
            assert code(await client.say(body * 10_000 + b".")) == "250 2.0.0"
            assert code(await client.say(b"QUIT")) == "221 2.0.0"
        ((envelope, content),) = stages.received
        assert content == body * 10_000
        assert envelope.client.tls is not None
        assert envelope.client.tls.version == "TLSv1.3"
        assert envelope.client.tls.bits >= 128


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_mail_comes_through(certificates: Certificates, tls: str) -> None:
    await deliver(certificates, tls)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_mail_comes_through_on_uvloop(certificates: Certificates, tls: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(deliver(certificates, tls))


@pytest.mark.parametrize("injected", [b"MAIL FROM:<eve@example.org>\r\n", b"NOOP\r\n", b"x"])
async def test_what_is_pipelined_behind_starttls_ends_the_session(certificates: Certificates, injected: bytes) -> None:
    """CVE-2011-0411: dropped and closed; no 220, no reply to the injected line."""
    async with listening(Scripted(), tables(certificates)) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.say(OPEN[0])
        client.send(b"STARTTLS\r\n" + injected)
        assert [code(text) for text in await client.rest()] == ["554 5.5.0"]


async def test_clear_text_after_220_is_no_command(certificates: Certificates) -> None:
    stages = Scripted()
    async with listening(stages, tables(certificates)) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(OPEN[0], b"STARTTLS")
        client.send(b"EHLO eve.test\r\nMAIL FROM:<eve@example.org>\r\n")
        alert = await client.read_to_end()
        assert alert[:2] in (b"", b"\x15\x03")  # RFC 8446 §5.1: a TLS alert or nothing, no reply
        await relay.until(lambda: bool(relay.of("tls")))
        assert "failed" in relay.of("tls")[0].values


async def test_all_state_is_forgotten_at_starttls(certificates: Certificates) -> None:
    """RFC 3207 §4.2."""
    async with listening(Scripted(), tables(certificates)) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(OPEN[0], b"STARTTLS")
        await client.start_tls(certificates.client_context())
        assert await client.converse(OPEN[1], *OPEN) == ["503 5.5.1", "250", "250 2.1.0", "250 2.1.5"]


async def test_starttls_where_it_does_not_belong(certificates: Certificates) -> None:
    async with listening(Scripted(), tables(certificates)) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        assert await client.converse(OPEN[0], b"STARTTLS now") == ["250", "501 5.5.4"]
        assert await client.converse(OPEN[1], b"STARTTLS", b"RSET") == ["250 2.1.0", "503 5.5.1", "250 2.0.0"]
        assert code(await client.say(b"STARTTLS")) == "220 2.0.0"
        await client.start_tls(certificates.client_context())
        assert await client.converse(OPEN[0], b"STARTTLS") == ["250", "503 5.5.1"]


async def test_require_tls_refuses_everything_before_it(certificates: Certificates) -> None:
    given = tables(certificates, require_tls=True, limit={"errors": 50})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        refused = [*OPEN[1:], b"DATA", b"AUTH PLAIN", b"VRFY x", b"RSET", b"HELP"]
        assert await client.converse(*refused) == ["530 5.7.0"] * len(refused)
        assert await client.converse(b"NOOP", OPEN[0], b"HELO x") == ["250 2.0.0", "250", "250"]
        assert code(await client.say(b"STARTTLS")) == "220 2.0.0"
        await client.start_tls(certificates.client_context())
        assert await client.converse(*OPEN) == ["250", "250 2.1.0", "250 2.1.5"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_stalled_handshake_ends_and_counts_until_then(certificates: Certificates, tls: str) -> None:
    given = tables(certificates, tls, timeout={"tls_handshake": "200ms"}, limit={"connections": 1})
    async with listening(Scripted(), given) as relay, smtp_client(relay.address("capture")) as client:
        if tls == "starttls":
            await client.read()
            await client.converse(OPEN[0], b"STARTTLS")
        client.send(b"\x16\x03\x01")
        await relay.until(lambda: relay.listeners.load.connections == 1)
        assert await client.rest() == []
        await relay.until(lambda: relay.listeners.load.connections == 0)


async def test_older_than_tls_1_2_is_refused(certificates: Certificates) -> None:
    context = certificates.client_context()
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with listening(Scripted(), tables(certificates, "implicit")) as relay:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with smtp_client(relay.address("capture"), tls=context):
                pass


async def test_a_session_ticket_of_one_listener_is_worth_nothing_at_another(certificates: Certificates) -> None:
    """Postfix 20260805."""
    given = tables(certificates, "implicit")
    given["listener"]["other"] = dict(given["listener"]["capture"])
    context = certificates.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its ticket comes with the handshake

    def resumed(address: tuple[str, int], session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        import socket

        with (
            socket.create_connection(address, timeout=20) as raw,
            context.wrap_socket(raw, server_hostname="localhost", session=session) as secure,
        ):
            secure.recv(100)
            return secure.session, bool(secure.session_reused)

    async with listening(Scripted(), given) as relay:
        session, _ = await asyncio.to_thread(resumed, relay.address("capture"), None)
        assert (await asyncio.to_thread(resumed, relay.address("capture"), session))[1]
        assert not (await asyncio.to_thread(resumed, relay.address("other"), session))[1]


async def test_a_client_that_closes_in_the_middle_leaves_nothing(certificates: Certificates) -> None:
    stages = Scripted()
    async with listening(stages, tables(certificates, "implicit")) as relay:
        async with smtp_client(relay.address("capture"), tls=certificates.client_context()) as client:
            await client.read()
            await client.converse(*OPEN, b"DATA")
            client.send(b"half a mess")
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert stages.received == []
        assert relay.listeners.load.memory == 0

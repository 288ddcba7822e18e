"""What we rely on in aiosmtplib besides its documented calls (pyproject: `aiosmtplib>=5.1.3,<5.2`)."""

from __future__ import annotations

import asyncio
import inspect

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol

from tests.support.fake_hop import FakeHop, Raw


async def test_the_protocol_keeps_unread_octets_in_its_buffer() -> None:
    """`forward/connect.py` looks there after each step: octets left over are a reply that nobody asked for."""
    async with FakeHop({"ehlo": Raw(b"250 hop.example\r\n550 5.0.0 stray\r\n")}) as fake:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=fake.port, start_tls=False, local_hostname="relay")
        await client.connect()
        await client.ehlo()
        assert client.protocol is not None
        assert bytes(client.protocol._buffer) == b"550 5.0.0 stray\r\n"
        client.close()


async def test_the_transport_can_be_taken_over() -> None:
    """No task, timer or callback of the library's clings to it."""
    async with FakeHop() as fake:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=fake.port, start_tls=False, local_hostname="relay")
        await client.connect()
        await client.ehlo()
        assert isinstance(client.protocol, SMTPProtocol)
        transport = client.transport
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_protocol() is client.protocol
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        class Ours(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                heard.set_result(data)

        transport.set_protocol(Ours())
        transport.write(b"RSET\r\n")
        assert await heard == b"250 2.0.0 flushed\r\n"
        assert asyncio.all_tasks() - fake._tasks == {asyncio.current_task()}
        transport.abort()


def test_a_reply_it_cannot_read_has_the_code_minus_one() -> None:
    assert aiosmtplib.SMTPStatus.invalid_response == -1


def test_the_calls_we_make_take_what_we_give() -> None:
    constructor = "hostname sock timeout use_tls start_tls tls_context local_hostname"
    calls = {
        aiosmtplib.SMTP.__init__: constructor.split(),
        aiosmtplib.SMTP.starttls: ["server_hostname"],
        aiosmtplib.SMTP.auth_plain: ["username", "password"],
        aiosmtplib.SMTP.auth_login: ["username", "password"],
        aiosmtplib.SMTP.auth_xoauth2: ["username", "access_token"],
    }
    for call, names in calls.items():
        assert set(names) <= set(inspect.signature(call).parameters)


async def test_a_reply_set_as_the_one_to_ehlo_gives_the_extensions() -> None:
    """`forward/connect.py` says LHLO in its place."""
    async with FakeHop(lmtp=True, extensions=("SIZE 5", "STARTTLS", "AUTH XOAUTH2")) as fake:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=fake.port, start_tls=False, local_hostname="relay")
        await client.connect()
        client.last_ehlo_response = await client.execute_command(b"LHLO", b"relay")
        assert client.esmtp_extensions == {"size": "5", "starttls": "", "auth": "XOAUTH2"}
        assert client.server_auth_methods == ["xoauth2"]
        assert not client.is_ehlo_or_helo_needed
        assert fake.commands == [b"LHLO relay"]
        client.close()

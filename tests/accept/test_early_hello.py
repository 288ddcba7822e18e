"""A TLS client need not wait for anything: its first octets may be there before the relay has looked.

On uvloop, since there `pause_reading` in `connection_made` is forgotten once reading begins.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import uvloop

from tests.support.certificates import make_certificates
from tests.support.running import running


@pytest.fixture(scope="module", autouse=True)
def first_loop() -> None:
    """libuv keeps a pipe for signals from its first loop on, for the life of the process."""
    uvloop.new_event_loop().close()


def greeting_behind_tls(
    connection: socket.socket, tls: ssl.SSLObject, to_us: ssl.MemoryBIO, ours: ssl.MemoryBIO
) -> bytes:
    """Finish the handshake that was begun on `connection`, and read one piece."""
    for step in (tls.do_handshake, tls.read):
        while True:
            try:
                got = step()
                break
            except ssl.SSLWantReadError:
                connection.sendall(ours.read())
                to_us.write(connection.recv(65536))
        connection.sendall(ours.read())
    return bytes(got or b"")


def test_a_client_hello_that_is_early_is_not_lost(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    tables = {
        "listener": {
            "smtps": {
                "role": "submission",
                "tls": "implicit",
                "certificate": certificates.chain,
                "key": certificates.key,
                "allow": ["127.0.0.0/8"],
                "senders": ["*"],
            }
        },
        "hop": {"inbox": {"kind": "inbox"}},
        "route": {"all": {"hop": "inbox"}},
    }

    async def talk() -> bytes:
        async with running(tables, tmp_path) as relay:
            to_us, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = certificates.client_context().wrap_bio(to_us, ours, server_hostname="localhost")
            # The loop stands still until the hello is in its socket: the kernel takes the connection.
            with socket.create_connection(("127.0.0.1", relay.port("smtps")), timeout=5) as connection:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    connection.sendall(ours.read())
                return await asyncio.to_thread(greeting_behind_tls, connection, tls, to_us, ours)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(talk()).startswith(b"220 ")

"""Ports for several workers: shared with them, and with nobody else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from relay.accept.ports import bind, reserve
from relay.errors import ConfigError


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def keep(stack: contextlib.ExitStack, sockets: list[socket.socket]) -> int:
    """Close them with the test; the port of the first."""
    for one in sockets:
        stack.enter_context(one)
    return int(sockets[0].getsockname()[1])


def accepted(bound: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            bound.accept()[0].close()
            count += 1
    return count


def test_workers_share_what_is_reserved_and_the_reservation_takes_nothing(opened: contextlib.ExitStack) -> None:
    port = keep(opened, reserve("a", "127.0.0.1", 0))
    workers = [bind("a", "127.0.0.1", port, is_shared=True) for _ in range(2)]
    for sockets in workers:
        keep(opened, sockets)
    for _ in range(40):
        socket.create_connection(("127.0.0.1", port)).close()
    counts = [accepted(sockets[0]) for sockets in workers]
    assert sum(counts) == 40
    assert all(counts)  # dealt out by a hash: 1 in 2^39 that one has all


@pytest.mark.parametrize("has_workers", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_nobody_else_gets_it(opened: contextlib.ExitStack, has_workers: bool, host: str) -> None:
    port = keep(opened, reserve("a", "127.0.0.1", 0))
    if has_workers:
        keep(opened, bind("a", "127.0.0.1", port, is_shared=True))
    for take in (bind, reserve):
        with pytest.raises(ConfigError, match=f"listener.b.port: {host}:{port} is in use"):
            take("b", host, port)


def test_what_another_has_is_not_reserved(opened: contextlib.ExitStack) -> None:
    port = keep(opened, bind("a", "127.0.0.1", 0))
    with pytest.raises(ConfigError, match="is in use"):
        reserve("b", "127.0.0.1", port)


def test_it_can_be_had_again_at_once(opened: contextlib.ExitStack) -> None:
    """Connections that we closed first linger in TIME-WAIT."""
    with contextlib.ExitStack() as first:
        port = keep(first, reserve("a", "127.0.0.1", 0))
        keep(first, bound := bind("a", "127.0.0.1", port, is_shared=True))
        with socket.create_connection(("127.0.0.1", port)) as client:
            bound[0].setblocking(True)
            bound[0].accept()[0].close()
            assert client.recv(1) == b""
    keep(opened, reserve("a", "127.0.0.1", port))
    keep(opened, bind("a", "127.0.0.1", port, is_shared=True))


def test_localhost_is_two_addresses_of_one_port(opened: contextlib.ExitStack) -> None:
    sockets = reserve("a", "localhost", 0)
    keep(opened, sockets)
    expected = {found[0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {one.family for one in sockets} == expected
    assert len({one.getsockname()[1] for one in sockets}) == 1

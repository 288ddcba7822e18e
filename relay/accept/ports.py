"""Sockets bound to the addresses of listeners: of one process alone, or of several workers on the same port.

Workers bind with SO_REUSEPORT (socket(7)): the kernel deals out new connections among them. That works between any
programs of one user, so the supervisor makes sure that nobody else is there, and holds the port while it lives.

FAILS      ConfigError naming the listener whose address cannot be bound.
"""

from __future__ import annotations

import errno
import socket

from relay.errors import ConfigError, Problem

BACKLOG = 512  # connections the kernel holds until we take them


def bind(name: str, host: str, port: int, *, is_shared: bool = False) -> list[socket.socket]:
    """Listening sockets for `host`, of which only `localhost` has two. Raises ConfigError.

    is_shared: with the other workers; their supervisor has reserved the port.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            bound = _socket(family, kind, protocol)
            sockets.append(bound)
            if is_shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
    except OSError as error:
        _close(sockets)
        raise _refused(name, host, port, error) from error
    return sockets


def reserve(name: str, host: str, port: int) -> list[socket.socket]:
    """Sockets that hold the port for our workers and take no connection. Raises ConfigError if it is in use."""
    held: list[socket.socket] = []
    alone: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            # To listen without SO_REUSEPORT fails if anybody is there, whoever he is ...
            first = _socket(family, kind, protocol)
            alone.append(first)
            if held and not port:  # both addresses of localhost have the same
                address = (address[0], held[0].getsockname()[1], *address[2:])
            first.bind(address)
            first.listen(BACKLOG)
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # ... and this one, without SO_REUSEADDR once it is bound, fails those who come later without it.
            second = _socket(family, kind, protocol)
            held.append(second)
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            second.bind(first.getsockname())
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        _close(held)
        raise _refused(name, host, port, error) from error
    finally:
        _close(alone)
    return held


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _refused(name: str, host: str, port: int, error: OSError) -> ConfigError:
    why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror or error}"
    return ConfigError(Problem("", f"listener.{name}.port", f"{host}:{port} {why}"))

"""An SMTP client that sends whatever octets it is told to and reads whole replies, over plain TCP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


class RawClient:
    """transcript: all that was said by both sides, for people and for the hunt for secrets."""

    def __init__(self, connection: socket.socket, incoming: BinaryIO) -> None:
        self._connection = connection
        self._incoming = incoming
        self.transcript = bytearray()
        self.replies: list[str] = []

    def send(self, octets: bytes) -> None:
        self.transcript += octets
        self._connection.sendall(octets)

    def read(self) -> str:
        """The next reply, its lines joined with a newline; "" when the connection is closed or reset."""
        lines = []
        while line := self._line():
            self.transcript += line
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
            if line[3:4] != b"-":
                break
        reply = "\n".join(lines)
        if reply:
            self.replies.append(reply)
        return reply

    def _line(self) -> bytes:
        try:
            return self._incoming.readline()
        except ConnectionResetError:
            return b""

    def say(self, line: bytes) -> str:
        """Send `line` with its CRLF, return the reply."""
        self.send(line + b"\r\n")
        return self.read()

    def rest(self) -> list[str]:
        """All replies until the server closes the connection."""
        return list(iter(self.read, ""))


@contextmanager
def raw_client(port: int, host: str = "127.0.0.1", patience: float = 20.0) -> Iterator[RawClient]:
    """A connection to `host`:`port`; nothing has been read or sent yet."""
    with socket.create_connection((host, port), timeout=patience) as connection, connection.makefile("rb") as incoming:
        yield RawClient(connection, incoming)

"""An SMTP client in the test's own loop: sends whatever octets it is told to, and leaves as it is told to."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SmtpClient:
    """Every read and the end have a deadline, so that a server that says nothing fails the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> None:
        self._reader, self._writer, self._patience = reader, writer, patience

    def send(self, octets: bytes) -> None:
        self._writer.write(octets)

    async def sent(self) -> None:
        """The kernel has taken what was sent."""
        await asyncio.wait_for(self._writer.drain(), self._patience)

    async def read(self) -> str:
        """The next reply, its lines joined with a newline; "" when the connection is closed."""
        lines: list[str] = []
        try:
            while line := await asyncio.wait_for(self._reader.readline(), self._patience):
                assert line.endswith(b"\r\n"), line
                lines.append(line[:-2].decode("ascii"))
                if line[3:4] != b"-":
                    break
        except ConnectionError:
            return ""
        return "\n".join(lines)

    async def say(self, line: bytes) -> str:
        """Send `line` with its CRLF, return the reply."""
        self.send(line + b"\r\n")
        return await self.read()

    async def converse(self, *lines: bytes) -> list[str]:
        """The first words of the replies to `lines`, one after the other: `["250 2.1.0", …]`."""
        return [code(await self.say(line)) for line in lines]

    async def rest(self) -> list[str]:
        """All replies until the server closes the connection."""
        replies = []
        while reply := await self.read():
            replies.append(reply)
        return replies

    async def read_to_end(self) -> bytes:
        """Every octet until the server closes the connection."""
        try:
            return await asyncio.wait_for(self._reader.read(), self._patience)
        except ConnectionError:
            return b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await asyncio.wait_for(self._writer.start_tls(context, server_hostname="localhost"), self._patience)

    async def ended(self) -> None:
        """The server has closed or cut the connection; what it said is not read."""
        while not (self._reader.at_eof() or self._writer.transport.is_closing()):
            if not self._writer.transport.is_reading():  # type: ignore[attr-defined]
                await asyncio.sleep(0.1)
                self._writer.transport.resume_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
            self._reader._buffer.clear()  # type: ignore[attr-defined]

    def half_close(self) -> None:
        """FIN: we send no more, but read on."""
        self._writer.write_eof()

    def reset(self) -> None:
        """RST: we are gone."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def stop_reading(self) -> None:
        """Let the TCP window fill up."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def close(self) -> None:
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), self._patience)
        except (ConnectionError, ssl.SSLError):
            pass
        except TimeoutError:  # asyncio tells no writer of a connection that is lost during its TLS handshake
            self._writer.transport.abort()


@asynccontextmanager
async def smtp_client(
    address: tuple[str, int], *, tls: ssl.SSLContext | None = None, patience: float = 20.0
) -> AsyncIterator[SmtpClient]:
    """A connection to `address`; nothing has been read or sent yet."""
    server_hostname = "localhost" if tls else None
    reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname=server_hostname)
    client = SmtpClient(reader, writer, patience)
    try:
        yield client
    finally:
        await client.close()


def code(reply: str) -> str:
    """`250 2.1.0` of `250 2.1.0 sender OK`; a reply without enhanced code gives its three digits."""
    first = reply.split("\n")[-1].split(" ")
    return " ".join(first[:2]) if len(first) > 1 and first[1].count(".") == 2 else first[0][:3]

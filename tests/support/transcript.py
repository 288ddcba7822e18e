"""SMTP tests as transcripts: what the client says, what the server must answer.

    S: 220 *
    C: MAIL FROM:<ann@ours.org>
    S: 250 *
    C: ...                        leaves at once (RST)

A pattern (shell wildcards) is matched against a reply's last line. Lines that begin with neither
`C:` nor `S:` are comments.
"""

import asyncio
import fnmatch
import socket
import struct

PATIENCE = 20.0  # seconds for one reply; a test never takes so long unless it fails


class Dialogue:
    """One connection to a server on loopback."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Dialogue":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def play(self, script: str) -> str:
        """Play the transcript; the last reply, whole, is returned."""
        reply = ""
        for line in script.strip().splitlines():
            who, _, text = line.strip().partition(":")
            text = text.removeprefix(" ")
            if who == "C" and text == "...":
                await self.leave()
            elif who == "C":
                self._writer.write(text.encode() + b"\r\n")
            elif who == "S":
                reply = await self.reply()
                said = reply.splitlines()[-1] if reply else "(closed)"
                assert fnmatch.fnmatchcase(said, text), f"expected {text!r}, the server said {said!r}"
        return reply

    async def reply(self) -> str:
        """The next reply; "" when the server has closed the connection."""
        lines = []
        async with asyncio.timeout(PATIENCE):
            while line := await self._reader.readline():
                lines.append(line.decode().removesuffix("\r\n"))
                if line[3:4] == b" ":
                    break
        return "\n".join(lines)

    def send(self, octets: bytes) -> None:
        self._writer.write(octets)

    async def leave(self) -> None:
        """Reset the connection, without a farewell."""
        await self._writer.drain()
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()


async def play(port: int, script: str) -> str:
    """Play one transcript on a connection of its own; the last reply is returned."""
    dialogue = await Dialogue.open(port)
    try:
        return await dialogue.play(script)
    finally:
        await dialogue.close()

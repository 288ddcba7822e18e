"""Load and sink with STARTTLS, which smtp-source and smtp-sink do not have.

`python -m bench.tls_load sink PORT CHAIN KEY` counts on standard output as `smtp-sink -c` does;
`python -m bench.tls_load source PORT SESSIONS COUNT OCTETS [reuse]` sends as smtp-source does, each mail in one
write after the 354, and prints when it began (perf_counter). Both are as small as they can be: they run beside
what is measured.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time

import uvloop

from bench.network import HOST
from bench.site import CLIENT, RECIPIENT, SENDER, message

_LIMIT = 64 * 1024 * 1024
_EHLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n"
_ANSWERS = {b"MAIL": b"250 2.1.0 Ok\r\n", b"RCPT": b"250 2.1.5 Ok\r\n", b"DATA": b"354 Go on\r\n"}


class Sink:
    def __init__(self, context: ssl.SSLContext) -> None:
        self.context, self.count = context, 0

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink ESMTP\r\n")
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb in (b"EHLO", b"HELO"):
                    writer.write(_EHLO)
                elif verb == b"STAR":
                    writer.write(b"220 Go on\r\n")
                    await writer.start_tls(self.context)
                elif verb == b"QUIT":
                    writer.write(b"221 Bye\r\n")
                    break
                else:
                    writer.write(_ANSWERS.get(verb, b"250 2.0.0 Ok\r\n"))
                    if verb == b"DATA":
                        await reader.readuntil(b"\r\n.\r\n")
                        self.count += 1
                        writer.write(b"250 2.0.0 Ok\r\n")
                        sys.stdout.write(f"mesg={self.count}\r")
                        sys.stdout.flush()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # whoever measures misses the mail
        finally:
            writer.close()


async def sink(port: int, chain: str, key: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    server = await asyncio.start_server(Sink(context).session, "0.0.0.0", port, limit=_LIMIT, backlog=1000)
    await server.serve_forever()


class Source:
    """Sessions take from one count of mails until none is left."""

    def __init__(self, port: int, count: int, content: bytes, reuse: bool) -> None:
        self.port, self.left, self.content, self.reuse = port, count, content, reuse
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    async def session(self) -> None:
        while self.left > 0:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            await _hear(reader, b"220")
            await _say(reader, writer, f"EHLO {CLIENT}\r\n".encode(), b"250")
            await _say(reader, writer, b"STARTTLS\r\n", b"220")
            await writer.start_tls(self.context)
            await _say(reader, writer, f"EHLO {CLIENT}\r\n".encode(), b"250")
            while self.left > 0:
                self.left -= 1
                await _say(reader, writer, f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250")
                await _say(reader, writer, f"RCPT TO:<{RECIPIENT}>\r\n".encode(), b"250")
                await _say(reader, writer, b"DATA\r\n", b"354")
                await _say(reader, writer, self.content, b"250")
                if not self.reuse:
                    break
            await _say(reader, writer, b"QUIT\r\n", b"221")
            writer.close()


async def source(port: int, sessions: int, count: int, octets: int, reuse: bool) -> None:
    content = message(octets).replace(b"\n", b"\r\n") + b".\r\n"
    load = Source(port, count, content, reuse)
    print(time.perf_counter())
    await asyncio.gather(*(load.session() for _ in range(sessions)))


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: bytes, expected: bytes) -> None:
    writer.write(what)
    await _hear(reader, expected)


async def _hear(reader: asyncio.StreamReader, expected: bytes) -> None:
    while (line := await reader.readline())[3:4] == b"-":
        pass
    if not line.startswith(expected):
        sys.exit(f"expected {expected.decode()}, heard {line!r}")


if __name__ == "__main__":
    kind, *given = sys.argv[1:]
    if kind == "sink":
        uvloop.run(sink(int(given[0]), given[1], given[2]))
    else:
        numbers = [int(number) for number in given[:4]]
        uvloop.run(source(*numbers, reuse=given[4:] == ["reuse"]))

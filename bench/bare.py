"""The two libraries with nothing around them: `python -m bench.bare server PORT` and `… client PORT SECONDS`.

The server is aiosmtpd and forgets every mail; the client is aiosmtplib with 20 connections that it keeps,
and prints how many mails a second it got rid of.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiosmtplib
import uvloop
from aiosmtpd.smtp import SMTP

from bench.network import HOST
from bench.site import CLIENT, OCTETS, RECIPIENT, SENDER, message

SESSIONS = 20


class Null:
    async def handle_DATA(self, server: SMTP, session: object, envelope: object) -> str:  # noqa: N802
        return "250 2.0.0 Ok"


async def server(port: int) -> None:
    loop = asyncio.get_running_loop()
    handler = Null()
    listening = await loop.create_server(lambda: SMTP(handler, loop=loop), HOST, port, backlog=1000)
    await listening.serve_forever()


async def client(port: int, seconds: float) -> None:
    mail = message(OCTETS).replace(b"\n", b"\r\n")
    sent = 0
    began = time.perf_counter()

    async def session() -> None:
        nonlocal sent
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname=CLIENT, start_tls=False) as smtp:
            while time.perf_counter() < began + seconds:
                await smtp.sendmail(SENDER, [RECIPIENT], mail)
                sent += 1

    await asyncio.gather(*(session() for _ in range(SESSIONS)))
    print(sent / (time.perf_counter() - began))


if __name__ == "__main__":
    kind, port, *seconds = sys.argv[1:]
    uvloop.run(server(int(port)) if kind == "server" else client(int(port), float(seconds[0])))

"""A next hop that plays a script: what it does at each stage of a session is data.

    async with FakeHop({"rcpt": Reply("550 5.1.1 no such user")}) as hop: ...

Stages: greeting ehlo starttls auth token xclient mail rcpt data content dot rset quit. A stage that is
not in the script is answered as RFC 5321 asks. `content` is acted on when the first line of content has
come; `token` is what a client says to the 334 of an AUTH. With LMTP `dot` is acted on once for each
recipient. A list is used up one session (greeting, ehlo …) or one command at a time, then the default counts.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(frozen=True)
class Reply:
    """Lines with their codes, without CRLF. slices: sent byte by byte, each in a segment of its own."""

    text: str
    slices: bool = False


@dataclass(frozen=True)
class Raw:
    """These octets, and wait for what comes. close: then a FIN."""

    data: bytes
    close: bool = False


@dataclass(frozen=True)
class Endless:
    """These octets again and again, until the client goes away."""

    data: bytes


@dataclass(frozen=True)
class Stall:
    """Nothing, until the client goes away."""


@dataclass(frozen=True)
class Close:
    """FIN."""


@dataclass(frozen=True)
class Reset:
    """RST."""


Action = Reply | Raw | Endless | Stall | Close | Reset
Script = Mapping[str, Action | list[Action]]
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000", "ENHANCEDSTATUSCODES")


class _Over(Exception):
    """This session is over."""


@dataclass
class Session:
    """What one connection sent.

    commands: without CRLF. wires: each content as sent, final dot included. content: lines of one that has none yet.
    """

    commands: list[bytes] = field(default_factory=list)
    wires: list[bytes] = field(default_factory=list)
    content: list[bytes] = field(default_factory=list)
    tls: list[bool] = field(default_factory=list)  # for each command: was it said over TLS?
    answers: int = 1  # owed to the final dot
    proxy: bytes = b""  # the PROXY header, its signature off


class FakeHop:
    """tls: offers STARTTLS with it, or (implicit) speaks it from the first octet.

    login: offers AUTH, with these mechanisms. lmtp: speaks LMTP instead. proxied: waits for a PROXY v2 header first.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        extensions: tuple[str, ...] = EXTENSIONS,
        name: str = "hop.example",
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        login: bool | str = False,
        lmtp: bool = False,
        proxied: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script = {stage: list(do) if isinstance(do, list) else do for stage, do in (script or {}).items()}
        self.extensions, self.name, self.tls, self.implicit, self.login = extensions, name, tls, implicit, login
        self.lmtp, self.proxied = lmtp, proxied
        self.host, self.port = host, port
        self.sessions: list[Session] = []
        self.peers: list[str] = []  # the address that each session came from
        self.open = 0  # connections now
        self.peak = 0  # connections at once, at most
        self.accepted: list[bytes] = []  # contents answered 250, dots unstuffed
        self._reached: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.hold: asyncio.Event | None = None  # when set: every dot is answered only once it is set

    async def __aenter__(self) -> FakeHop:
        context = self.tls if self.implicit else None
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context, limit=2**22)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reached(self, stage: str, times: int = 1) -> None:
        """Wait until `stage` has been reached so many times, over all sessions."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._reached[stage] >= times)

    async def all_closed(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.open == 0)

    @property
    def commands(self) -> list[bytes]:
        """All commands of all sessions."""
        return [command for session in self.sessions for command in session.commands]

    # --- one session ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = Session()
        self.sessions.append(session)
        self.peers.append(writer.get_extra_info("peername")[0])
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            await self._talk(session, reader, writer)
        except (_Over, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it is over; in 3.11 a cancelled session is logged as an error
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            self.open -= 1
            await self._note("closed")

    async def _talk(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure = self.implicit
        mail = False
        recipients = 0
        if self.proxied:
            head = await reader.readexactly(16)
            assert head.startswith(b"\r\n\r\n\0\r\nQUIT\n"), head
            session.proxy = head[12:] + await reader.readexactly(int.from_bytes(head[14:]))
        await self._do("greeting", Reply(f"220 {self.name} ESMTP"), reader, writer)
        while True:
            line = (await reader.readuntil(b"\r\n"))[:-2]
            session.commands.append(line)
            session.tls.append(secure)
            verb = line.split(b" ")[0].split(b":")[0].upper().decode("latin-1")
            match verb:
                case "EHLO" | "HELO" | "LHLO" if (verb == "LHLO") is self.lmtp:
                    mail, recipients = False, 0
                    offered = [*self.extensions]
                    if self.tls and not secure:
                        offered.append("STARTTLS")
                    if self.login:
                        offered.append(f"AUTH {'PLAIN LOGIN' if self.login is True else self.login}")
                    lines = [self.name, *offered] if verb != "HELO" else [self.name]
                    text = "\r\n".join(f"250{'-' if line is not lines[-1] else ' '}{line}" for line in lines)
                    await self._do("ehlo", Reply(text), reader, writer)
                case "STARTTLS":
                    said = await self._do("starttls", Reply("220 2.0.0 go ahead"), reader, writer)
                    if said.startswith(b"220") and self.tls:
                        await writer.start_tls(self.tls)
                        secure = True
                case "AUTH":
                    said = await self._do("auth", Reply("235 2.7.0 welcome"), reader, writer)
                    if said.startswith(b"334"):
                        session.commands.append((await reader.readuntil(b"\r\n"))[:-2])
                        session.tls.append(secure)
                        await self._do("token", Reply("535 5.7.8 no"), reader, writer)
                case "XCLIENT":
                    await self._do("xclient", Reply(f"220 {self.name} anew"), reader, writer)
                case "MAIL":
                    said = await self._do(
                        "mail", Reply("503 5.5.1 nested MAIL" if mail else "250 2.1.0 sender ok"), reader, writer
                    )
                    mail = mail or said.startswith(b"2")
                case "RCPT":
                    said = await self._do(
                        "rcpt", Reply("250 2.1.5 recipient ok" if mail else "503 5.5.1 MAIL first"), reader, writer
                    )
                    recipients += said.startswith(b"2")
                case "DATA":
                    said = await self._do(
                        "data", Reply("354 go on" if recipients else "554 5.5.1 no recipients"), reader, writer
                    )
                    if said.startswith(b"354"):
                        session.answers = recipients if self.lmtp else 1
                        await self._content(session, reader, writer)
                        mail, recipients = False, 0
                case "RSET":
                    mail, recipients = False, 0
                    await self._do("rset", Reply("250 2.0.0 flushed"), reader, writer)
                case "QUIT":
                    await self._do("quit", Raw(b"221 2.0.0 bye\r\n", close=True), reader, writer)
                case _:
                    await self._do("other", Reply("500 5.5.2 what?"), reader, writer)

    async def _content(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session.content = lines = []
        while not lines or lines[-1] != b".\r\n":
            lines.append(await reader.readuntil(b"\r\n"))
            if len(lines) == 1:
                await self._do("content", Raw(b""), reader, writer)
        session.wires.append(b"".join(lines))
        session.content = []
        if self.hold is not None:
            await self._note("held")
            await self.hold.wait()
        said = [await self._do("dot", Reply("250 2.0.0 taken"), reader, writer) for _ in range(session.answers)]
        if any(one.startswith(b"250") for one in said):
            # RFC 5321 §4.5.2: a line that begins with a dot loses it
            self.accepted.append(b"".join(line[1:] if line.startswith(b".") else line for line in lines[:-1]))

    async def _do(
        self, stage: str, default: Action, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Play the stage; returns the octets that were said."""
        await self._note(stage)
        action = self.script.get(stage, default)
        if isinstance(action, list):
            action = action.pop(0) if action else default
        match action:
            case Reply(text, slices):
                said = text.encode("utf-8", "surrogateescape") + b"\r\n"
                if slices:
                    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in [bytes([octet]) for octet in said] if slices else [said]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                return said
            case Raw(data, close):
                writer.write(data)
                await writer.drain()
                if close:
                    writer.close()
                    raise _Over
                return data
            case Endless(data):
                while True:
                    writer.write(data)
                    await writer.drain()
            case Stall():
                while await reader.read(65536):
                    pass
            case Reset():
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            case Close():
                writer.close()
                with suppress(OSError, ssl.SSLError):
                    await writer.wait_closed()
        raise _Over

    async def _note(self, stage: str) -> None:
        self._reached[stage] += 1
        async with self._changed:
            self._changed.notify_all()

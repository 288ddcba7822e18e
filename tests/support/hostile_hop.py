"""A next hop that does its worst, in a process of its own, and keeps a book of what it took and what it refused.

It answers 4xx at random, cuts the connection at every stage of a session (before and after it has taken
the message), lets the client wait, and refuses some recipients and some messages for good: the same ones
each time. Reports, from the null reverse-path, get the same weather, but are never refused. A line of the book
is written before its reply, with one write(2): it outlives the process, and nobody cuts the power here.

Run as a program: `python -m tests.support.hostile_hop FOLDER PORT WEATHER`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import uvloop

from tests.support.ledger import Copy
from tests.support.peers import running

FIRST_FIELD = b"X-Submission: "  # the client's content begins with it
_ADDRESS = re.compile(rb"<([^>]*)>")
_RECEIVED_ID = re.compile(rb"\bid ([0-9a-z]+)")
_CODEC = "latin-1"  # octets as JSON strings


@dataclass(frozen=True, slots=True)
class Weather:
    """temporary: share of transactions that are answered 4xx somewhere. permanent: share of recipients refused.

    cut: share of connections cut at each of the eight stages. delay: seconds an answer to the final dot takes at most.
    """

    temporary: float = 0.10
    permanent: float = 0.02
    cut: float = 0.05
    delay: float = 2.0
    seed: int = 0


CALM = Weather(temporary=0.0, permanent=0.0, cut=0.0, delay=0.0)


class HostileHop:
    """A running one on 127.0.0.1:port, and its book."""

    def __init__(self, book: Path, port: int) -> None:
        self._book, self.port = book, port
        self._read = 0
        self._copies: dict[int, Copy] = {}  # by the number of its line
        self._connections: dict[int, list[int]] = {}  # the copies taken on each connection
        self._refused: set[tuple[str, str]] = set()
        self._lines = 0
        self.cuts = 0

    @property
    def copies(self) -> list[Copy]:
        self._catch_up()
        return list(self._copies.values())

    @property
    def refused(self) -> set[tuple[str, str]]:
        """(submission, recipient) answered 5xx."""
        self._catch_up()
        return set(self._refused)

    def _catch_up(self) -> None:
        with self._book.open("rb") as book:
            book.seek(self._read)
            text = book.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(whole)
        for line in whole.splitlines():
            self._lines += 1
            self._note(json.loads(line))

    def _note(self, entry: dict[str, Any]) -> None:
        match entry.pop("what"):
            case "taken":
                connection = entry.pop("connection")
                self._connections.setdefault(connection, []).append(self._lines)
                self._copies[self._lines] = _copy(entry)
            case "refused":
                self._refused |= {(entry["submission"], recipient) for recipient in entry["recipients"]}
            case "cut":
                self.cuts += 1
            case "closed":
                for number in self._connections.pop(entry["connection"], ()):
                    values = {name: getattr(self._copies[number], name) for name in Copy.__slots__}
                    self._copies[number] = Copy(**{**values, "closed": entry["at"]})


@contextmanager
def hostile_hop(weather: Weather, port: int) -> Iterator[HostileHop]:
    """Start one, end it with the block."""
    with tempfile.TemporaryDirectory(prefix="relay-hop-") as name:
        book = Path(name) / "book"
        book.touch()
        command = [sys.executable, "-m", "tests.support.hostile_hop", name, str(port), json.dumps(asdict(weather))]
        with running(command, log=Path(name) / "log", ports=[port]):
            yield HostileHop(book, port)


def _copy(entry: dict[str, Any]) -> Copy:
    content = entry["content"].encode(_CODEC)
    report, reported = ("", ()) if entry["submission"] else read_report(content)
    return Copy(
        entry["submission"],
        tuple(entry["recipients"]),
        entry["digest"],
        report.strip("<>").partition("@")[0] or entry["queue_id"],
        entry["at"],
        report=report,
        reported=reported,
    )


def read_report(content: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The Message-ID of an RFC 3464 report, and the failed recipients: the submission it returns, and who.

    A mail from the null reverse-path that is no such report is about nobody.
    """
    report = message_from_bytes(content, policy=policy.SMTP)
    failed: list[str] = []
    submission = ""
    for part in report.walk():
        match part.get_content_type():
            case "message/delivery-status" | "message/global-delivery-status":
                failed += [
                    str(block["Final-Recipient"]).partition(";")[2].strip()
                    for block in part.get_payload()
                    if block["Final-Recipient"] and str(block["Action"]).strip() == "failed"
                ]
            case "message/rfc822" | "text/rfc822-headers" | "message/global" | "message/global-headers":
                found = re.search(rb"^X-Submission: (\S+)", part.as_bytes(), re.MULTILINE)
                submission = found[1].decode() if found else submission
    identity = str(report["Message-ID"] or f"<no Message-ID {hashlib.sha256(content).hexdigest()}>")
    return identity, tuple((submission, recipient) for recipient in failed)


# --- the process -----------------------------------------------------------------------------------


class _Over(Exception):
    """This session is over."""


class _Hop:
    def __init__(self, weather: Weather, book: int) -> None:
        self._weather, self._book, self._random = weather, book, random.Random(weather.seed)
        self._connections = 0

    def note(self, what: str, **values: object) -> None:
        os.write(self._book, json.dumps({"what": what, **values}).encode() + b"\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        try:
            await self._talk(number, reader, writer)
        except (_Over, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()
            self.note("closed", connection=number, at=time.monotonic())

    async def _talk(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._cut("greeting", writer)
        _say(writer, "220 hostile.test ESMTP")
        sender: str | None = None  # of the transaction; "" is the null reverse-path
        recipients: list[str] = []
        while True:
            line = await reader.readuntil(b"\r\n")
            verb = line[:4].upper()
            argument = found[1].decode() if (found := _ADDRESS.search(line)) else ""
            if verb in (b"EHLO", b"MAIL", b"RCPT", b"DATA"):
                self._cut(verb.decode(), writer)
            match verb:
                case b"EHLO":
                    sender, recipients = None, []
                    _say(writer, "250-hostile.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
                case b"MAIL" if self._is_bad_moment():
                    _say(writer, "451 4.3.0 not now")
                case b"MAIL":
                    sender, recipients = argument, []
                    _say(writer, "250 2.1.0 go on")
                case b"RCPT" if sender is None:
                    _say(writer, "503 5.5.1 MAIL first")
                case b"RCPT" if self._is_bad_moment():
                    _say(writer, "450 4.2.1 not now")
                case b"RCPT" if sender and self._refuses(f"{sender} {argument}", 0.75):
                    self.note("refused", submission=_name(sender), recipients=[argument])
                    _say(writer, "550 5.1.1 nobody")
                case b"RCPT":
                    recipients.append(argument)
                    _say(writer, "250 2.1.5 go on")
                case b"DATA" if not recipients:
                    _say(writer, "554 5.5.1 for nobody?")
                case b"DATA" if self._is_bad_moment():
                    _say(writer, "452 4.3.1 not now")
                case b"DATA":
                    _say(writer, "354 go on")
                    await self._content(number, sender or "", recipients, reader, writer)
                    sender, recipients = None, []
                case b"RSET":
                    sender, recipients = None, []
                    _say(writer, "250 2.0.0 forgotten")
                case b"QUIT":
                    _say(writer, "221 2.0.0 bye")
                    await writer.drain()
                    raise _Over
                case _:
                    _say(writer, "500 5.5.2 what?")

    async def _content(
        self,
        number: int,
        sender: str,
        recipients: list[str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        beginning = await reader.readexactly(64)
        self._cut("content", writer)
        content = beginning + await reader.readuntil(b"\r\n.\r\n")
        content = content[:-3].replace(b"\r\n..", b"\r\n.")  # RFC 5321 §4.5.2
        delay = self._weather.delay * self._random.random() ** 4
        waits_first = self._random.random() < 0.5
        if waits_first:
            await asyncio.sleep(delay)
        self._cut("dot", writer)  # nothing was taken
        if self._is_bad_moment():
            _say(writer, "451 4.3.0 not now, after all")
            return
        if sender and self._refuses(sender, 0.25):
            self.note("refused", submission=_name(sender), recipients=recipients)
            _say(writer, "554 5.7.1 not this one")
            return
        start = content.find(FIRST_FIELD)
        queue_id = _RECEIVED_ID.search(content)
        self.note(
            "taken",
            connection=number,
            submission=_name(sender),
            recipients=recipients,
            digest=digest(content[start:]),
            queue_id=queue_id[1].decode() if queue_id else "",
            content="" if sender else content.decode(_CODEC),
            at=time.monotonic(),
        )
        self._cut("taken", writer)
        if not waits_first:
            await asyncio.sleep(delay)
        _say(writer, "250 2.0.0 taken")

    def _is_bad_moment(self) -> bool:
        """One of the four moments of a transaction at which it may be answered 4xx."""
        return self._random.random() < self._weather.temporary / 4

    def _refuses(self, name: str, share: float) -> bool:
        """For good: the same each time. share: of `permanent`."""
        number = int.from_bytes(hashlib.sha256(f"{self._weather.seed} {name}".encode()).digest()[:4])
        return number / 2**32 < self._weather.permanent * share

    def _cut(self, stage: str, writer: asyncio.StreamWriter) -> None:
        if self._random.random() >= self._weather.cut:
            return
        self.note("cut", stage=stage)
        if self._random.random() < 0.5:
            linger = struct.pack("ii", 1, 0)  # RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise _Over


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _name(sender: str) -> str:
    return sender.partition("@")[0]


def _say(writer: asyncio.StreamWriter, text: str) -> None:
    writer.write(text.encode() + b"\r\n")


async def _serve(folder: Path, port: int, weather: Weather) -> None:
    book = os.open(folder / "book", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    server = await asyncio.start_server(_Hop(weather, book).serve, "127.0.0.1", port, limit=2**22, backlog=512)
    async with server:
        with suppress(asyncio.CancelledError):
            await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), Weather(**json.loads(sys.argv[3]))))

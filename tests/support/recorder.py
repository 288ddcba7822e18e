"""A plain ESMTP server that takes everything and keeps every octet of the wire, in a process of its own.

It ends lines at any LF, as lenient servers do, so that a smuggled command would be seen as one.
Run as a program: `python -m tests.support.recorder FOLDER PORT`.
"""

from __future__ import annotations

import json
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.peers import free_port, running

EHLO = b"250-recorder.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 33554432\r\n250 PIPELINING\r\n"
_CODEC = "latin-1"  # octets as JSON strings


class Transaction(NamedTuple):
    """The arguments of MAIL and of each RCPT, and the content as it stood on the wire, dots stuffed."""

    reverse_path: bytes
    recipients: list[bytes]
    content: bytes


class Recorder:
    """A running recorder on 127.0.0.1:port. What it has answered to is on record."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.port = port

    @property
    def wire(self) -> bytes:
        """All octets its clients have sent, one connection after the other."""
        return b"".join(path.read_bytes() for path in sorted(self._folder.glob("session-*")))

    @property
    def transactions(self) -> list[Transaction]:
        path = self._folder / "transactions"
        # One that is being written has no line end yet.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [
            Transaction(reverse_path.encode(_CODEC), [one.encode(_CODEC) for one in recipients], content.encode(_CODEC))
            for reverse_path, recipients, content in map(json.loads, lines)
        ]


@contextmanager
def running_recorder() -> Iterator[Recorder]:
    """Start one, end it with the block."""
    with tempfile.TemporaryDirectory(prefix="relay-recorder-") as name:
        folder, port = Path(name), free_port()
        command = [sys.executable, "-m", "tests.support.recorder", name, str(port)]
        with running(command, log=folder / "log", ports=[port]):
            yield Recorder(folder, port)


def serve(folder: Path, port: int) -> None:
    lock = threading.Lock()
    numbers = iter(range(10**6))

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with lock:
                number = next(numbers)
            with (folder / f"session-{number:06}").open("wb", buffering=0) as record:
                self.converse(record.write)

        def converse(self, record: Callable[[bytes], object]) -> None:
            def read_line() -> bytes:
                line = self.rfile.readline()
                record(line)
                return line

            self.wfile.write(b"220 recorder.example ESMTP\r\n")
            reverse_path, recipients = b"", []
            while line := read_line():
                verb, argument = line[:4].upper(), line.rstrip(b"\r\n")[4:].strip()
                answer = b"250 2.0.0 OK\r\n"
                if verb in (b"EHLO", b"HELO"):
                    answer = EHLO
                elif verb == b"MAIL":
                    reverse_path, recipients = argument, []
                elif verb == b"RCPT":
                    recipients.append(argument)
                elif verb == b"DATA":
                    self.wfile.write(b"354 go ahead\r\n")
                    content = b""
                    while (line := read_line()) and line.rstrip(b"\r\n") != b".":
                        content += line
                    if not line:
                        return
                    keep(Transaction(reverse_path, recipients, content))
                elif verb == b"QUIT":
                    self.wfile.write(b"221 2.0.0 bye\r\n")
                    return
                elif verb not in (b"RSET", b"NOOP"):
                    answer = b"500 5.5.1 what?\r\n"
                self.wfile.write(answer)

    def keep(transaction: Transaction) -> None:
        recipients = [one.decode(_CODEC) for one in transaction.recipients]
        values = [transaction.reverse_path.decode(_CODEC), recipients, transaction.content.decode(_CODEC)]
        with lock, (folder / "transactions").open("a") as record:
            record.write(json.dumps(values) + "\n")

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 128  # with 5, of many connections at once some would never be answered

    with Server(("127.0.0.1", port), Session) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))

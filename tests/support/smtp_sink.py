"""Two next hops that only take: Postfix's smtp-sink, and a recorder that keeps every octet of the wire."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.clients import Transport
from tests.support.mail import crlf
from tests.support.peers import free_port, open_folder, require, require_root, running

_EHLO = b"250-recorder.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 33554432\r\n250 PIPELINING\r\n"


class SmtpSink:
    """A running smtp-sink. It announces AUTH and takes any, has no TLS and no SMTPUTF8."""

    name = "sink"
    domain = "sink.example"
    smtputf8 = False
    login: tuple[str, str] | None = None

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.ports = {Transport.PLAIN: port}

    def received(self) -> list[bytes]:
        """All messages taken so far, lines ending with CRLF. A dump is complete before its 250 is said."""
        dumps = [path.read_bytes() for path in (self.folder / "dump").glob("*")]
        return [crlf(dump.removesuffix(b"\n")) for dump in dumps]  # smtp-sink ends each with a blank line


@contextmanager
def running_smtp_sink(*options: str) -> Iterator[SmtpSink]:
    """Start one with smtp-sink's own `options`, end it with the block."""
    program = require("smtp-sink", "postfix")
    require_root(program)
    with open_folder("sink") as folder:
        dump = folder / "dump"
        dump.mkdir()
        dump.chmod(0o777)
        port = free_port()
        command = [program, "-u", "nobody", *options, "-d", f"{dump}/%s.", f"127.0.0.1:{port}", "100"]
        with running(command, log=folder / "log", ports=[port]):
            yield SmtpSink(folder, port)


@dataclass
class Recorder:
    """port: on 127.0.0.1. sessions: per connection, the octets the client sent, commands and content."""

    port: int
    sessions: list[bytearray] = field(default_factory=list)
    transactions: list[tuple[bytes, list[bytes], bytes]] = field(default_factory=list)


@contextmanager
def running_recorder() -> Iterator[Recorder]:
    """A plain ESMTP server in a thread that takes everything.

    It ends lines at any LF, as lenient servers do, so that a smuggled command would be seen as one.
    `transactions` are (MAIL argument, RCPT arguments, content as it stood on the wire, dots stuffed).
    """
    lock = threading.Lock()

    class Session(socketserver.StreamRequestHandler):
        def read_line(self, session: bytearray) -> bytes:
            line = self.rfile.readline()
            with lock:
                session += line
            return line

        def handle(self) -> None:
            session = bytearray()
            with lock:
                recorder.sessions.append(session)
            self.wfile.write(b"220 recorder.example ESMTP\r\n")
            reverse_path, recipients = b"", []
            while line := self.read_line(session):
                verb, argument = line[:4].upper(), line.rstrip(b"\r\n")[4:].strip()
                answer = b"250 2.0.0 OK\r\n"
                if verb in (b"EHLO", b"HELO"):
                    answer = _EHLO
                elif verb == b"MAIL":
                    reverse_path, recipients = argument, []
                elif verb == b"RCPT":
                    recipients.append(argument)
                elif verb == b"DATA":
                    self.wfile.write(b"354 go ahead\r\n")
                    content = bytearray()
                    while (line := self.read_line(session)) and line.rstrip(b"\r\n") != b".":
                        content += line
                    if not line:
                        return
                    with lock:
                        recorder.transactions.append((reverse_path, recipients, bytes(content)))
                elif verb == b"QUIT":
                    self.wfile.write(b"221 2.0.0 bye\r\n")
                    return
                elif verb not in (b"RSET", b"NOOP"):
                    answer = b"500 5.5.1 what?\r\n"
                self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.daemon_threads = True
        recorder = Recorder(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()

"""Postfix's smtp-sink: a next hop that takes every mail and keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.clients import Transport
from tests.support.mail import crlf
from tests.support.peers import free_port, open_folder, require, require_root, running


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

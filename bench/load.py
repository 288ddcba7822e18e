"""Postfix's smtp-source and smtp-sink: the load, and the next hop that counts what arrives."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import cpu
from bench.network import HOST
from bench.peers.peer import Failed
from bench.site import CLIENT, RECIPIENT, SENDER
from tests.support.peers import free_port, listens, require, wait_until

PATIENCE = 120.0  # seconds until what was sent must have arrived
_BACKLOG, _CONNECTIONS = "1000", "1000"


class Sink:
    """A next hop that takes all mail and says how much it has taken. `smtp-sink -c` writes a line for each."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self._process = process
        self._counted = threading.Condition()
        self._count, self._at = 0, 0.0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        self._process.terminate()
        self._reader.join()  # who closes its output under it makes it fail

    @property
    def count(self) -> int:
        """Messages taken since it began."""
        with self._counted:
            return self._count

    def arrived(self, count: int, lives: Callable[[], bool] = lambda: True) -> float:
        """Wait until it has taken so many; the time of the last one (perf_counter). Raises Failed."""
        end = time.monotonic() + PATIENCE
        with self._counted:
            while self._count < count:
                if not self._counted.wait(1.0) and (time.monotonic() > end or not lives()):
                    raise Failed(f"{self._count} of {count} messages arrived")
            return self._at

    def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while part := self._process.stdout.read1(65536):
            now = time.perf_counter()
            found = re.findall(rb"mesg=(\d+)\r", rest + part)
            rest = part[-80:]
            with self._counted:
                if found and int(found[-1]) > self._count:
                    self._count, self._at = int(found[-1]), now
                    self._counted.notify_all()
            time.sleep(0.002)  # some lines at once: reading costs the bench less


@contextmanager
def running_sink(certificate: Path | None = None, key: Path | None = None) -> Iterator[Sink]:
    """An smtp-sink; with a certificate one of our own that offers STARTTLS. Ends with the block."""
    port = free_port()
    if certificate and key:
        command = [sys.executable, "-m", "bench.tls_load", "sink", str(port), str(certificate), str(key)]
    else:
        address = f"0.0.0.0:{port}"
        command = [require("smtp-sink", "postfix"), "-u", "nobody", "-c", "-m", _CONNECTIONS, address, _BACKLOG]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        sink = Sink(port, process)
        try:
            wait_until("the sink listens", lambda: listens(port))
            yield sink
        finally:
            sink.end()


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent. reuse: many messages a connection, else one. file: the mail; else `octets` of smtp-source's own."""

    sessions: int = 20
    reuse: bool = False
    file: Path | None = None
    octets: int = 10_240
    tls: bool = False

    @property
    def case(self) -> str:
        return f"{self.sessions} {'reused' if self.reuse else 'new'}"

    def command(self, port: int, count: int) -> list[str]:
        if self.tls:
            numbers = [str(number) for number in (port, self.sessions, count, self.octets)]
            return [sys.executable, "-m", "bench.tls_load", "source", *numbers, *(["reuse"] if self.reuse else [])]
        content = ["-F", str(self.file)] if self.file else ["-l", str(self.octets)]
        envelope = ["-M", CLIENT, "-f", SENDER, "-t", RECIPIENT]
        sessions = ["-s", str(min(self.sessions, count)), "-m", str(count), *(["-d"] if self.reuse else [])]
        return [require("smtp-source", "postfix"), *sessions, *content, *envelope, f"{HOST}:{port}"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One round. accepted, delivered: messages a second until the client's last 250, until the last one arrived.

    cpu: seconds of CPU for 1000 messages, all processes of the peer.
    """

    accepted: float
    delivered: float
    cpu: float
    count: int
    seconds: float


def send(load: Load, port: int, sink: Sink, pids: Sequence[int], count: int) -> Sent:
    """Send `count` messages and wait until they have arrived. Raises Failed."""
    before, spent = sink.count, cpu(pids)
    began = time.perf_counter()
    try:
        ran = subprocess.run(load.command(port, count), capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"smtp-source was not done after {PATIENCE:g} s") from None
    ended = time.perf_counter()
    if ran.returncode:
        raise Failed(f"smtp-source: {ran.stderr.decode(errors='replace').strip()[-300:]}")
    if load.tls:
        began = float(ran.stdout)  # it took a while to start; perf_counter is one for all processes
    last = sink.arrived(before + count)
    used = (cpu(pids) - spent) / count * 1000
    return Sent(count / (ended - began), count / (last - began), used, count, last - began)

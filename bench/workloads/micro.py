"""Micro: the physical limits that a relay meets, each alone on this machine.

What OpenSSL, the disk, the loopback and the two libraries do when nothing else is asked of them.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from bench.load import Load, running_sink
from bench.network import HOST
from bench.options import Options
from bench.site import OCTETS, Site
from bench.table import Metric, Table
from tests.support.peers import free_port, listens, running, wait_until

ABOUT = "what the pieces can do at most, alone"
METRICS = (Metric("per_s", "a second"),)
_PADDING, _SHA256 = padding.PKCS1v15(), hashes.SHA256()


def run(site: Site, options: Options) -> Table:
    table = Table("micro", ABOUT, METRICS)
    seconds = options.seconds / 2
    key = rsa.generate_private_key(65537, 2048)
    signature = key.sign(b"x", _PADDING, _SHA256)
    block, mail = bytes(1_000_000), bytes(OCTETS)
    public = key.public_key()
    for _ in range(options.rounds):
        for threads in (1, 2):
            signed = _rate(lambda: key.sign(b"x", _PADDING, _SHA256), seconds, threads)
            table.add("RSA-2048 sign", f"OpenSSL, {threads} thread(s)", per_s=signed)
            verified = _rate(lambda: public.verify(signature, b"x", _PADDING, _SHA256), seconds, threads)
            table.add("RSA-2048 verify", f"OpenSSL, {threads} thread(s)", per_s=verified)
        table.add("SHA-256, MB", "OpenSSL", per_s=_rate(lambda: hashlib.sha256(block).digest(), seconds))
        with tempfile.NamedTemporaryFile() as file:

            def flush(descriptor: int = file.fileno()) -> None:
                os.write(descriptor, mail)
                os.fdatasync(descriptor)

            table.add("write and fdatasync, 10 KB", "disk", per_s=_rate(flush, seconds))
        table.add("echo, 10 KB there and back", "loopback", per_s=_echo(mail, seconds))
        for reuse in (False, True):
            case = f"mails, 20 sessions, {'reused' if reuse else 'new'}"
            table.add(case, "bare aiosmtpd → nowhere", per_s=_server(reuse, site.mail, seconds))
        table.add("mails, 20 sessions, reused", "bare aiosmtplib → sink", per_s=_client(seconds))
    return table


def _rate(job: Callable[[], object], seconds: float, threads: int = 1) -> float:
    """Calls a second, of all threads together."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            job()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)


def _echo(content: bytes, seconds: float) -> float:
    """Round trips a second between this process and another."""
    with socket.create_server((HOST, 0)) as listener:
        child = os.fork()
        if child == 0:
            other, _ = listener.accept()
            while part := other.recv(65536):
                other.sendall(part)
            os._exit(0)
        with socket.create_connection(listener.getsockname()[:2]) as connection:

            def turn() -> None:
                connection.sendall(content)
                left = len(content)
                while left:
                    left -= len(connection.recv(left))

            rate = _rate(turn, seconds)
        os.waitpid(child, 0)
        return rate


def _server(reuse: bool, mail: Path, seconds: float) -> float:
    """Mails a second into an aiosmtpd that forgets them."""
    port, load = free_port(), Load(20, reuse, mail)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.bare", "server", str(port)]
        with running(command, log=Path(folder) / "log", ports=[]):
            wait_until("aiosmtpd listens", lambda: listens(port, HOST))
            count, took = 200, 0.0
            while took < seconds / 2:  # the first ones warm it up and tell how many make a round
                count = min(int(count * seconds / took), 10 * count) if took else count
                began = time.perf_counter()
                subprocess.run(load.command(port, count), check=True)
                took = time.perf_counter() - began
            return count / took


def _client(seconds: float) -> float:
    """Mails a second from an aiosmtplib into smtp-sink."""
    with running_sink() as sink:
        command = [sys.executable, "-m", "bench.bare", "client", str(sink.port), str(seconds)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

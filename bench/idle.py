"""What an idle session costs the relay: growth of its resident memory, for each session after EHLO.

The clients are a process of their own, `python -m bench.idle HOST PORT SESSIONS [CA]`, which holds its sessions
until its input ends. Each kind has a relay of its own, warmed by a few sessions that come and go.
"""

from __future__ import annotations

import resource
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.certificates import Certificates, make_certificates
from tests.support.relay_process import RelayProcess, running_relay

SESSIONS, WARMING, ROUNDS = 2000, 20, 3
BARS = {"plain": 12, "STARTTLS": 40}  # KB a session
DESCRIPTORS = 3 * SESSIONS
_PAGE = resource.getpagesize()


def tables(certificates: Certificates) -> dict[str, Any]:
    listener = {"role": "gateway", "domains": ["example.com"]}
    tls = {"tls": "starttls", "certificate": certificates.chain, "key": certificates.key}
    return {
        "log": {"level": "info"},
        "limit": {"connections": 2 * SESSIONS},
        "listener": {"plain": listener, "STARTTLS": {**listener, **tls}},
        "route": {"all": {"hop": "inbox"}},
        "hop": {"inbox": {"kind": "inbox"}},
    }


def resident(pid: int) -> int:
    """Octets."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


@contextmanager
def sessions(port: int, count: int, ca: Path | None, host: str = "127.0.0.1") -> Iterator[None]:
    """So many sessions, idle after EHLO, until the block ends."""
    command = [sys.executable, "-m", "bench.idle", host, str(port), str(count), *([str(ca)] if ca else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        assert clients.stdout is not None
        if clients.stdout.readline() != b"all there\n":
            sys.exit("the clients did not get their sessions")
        yield


def growth(relay: RelayProcess, kind: str, count: int, ca: Path | None) -> float:
    """KB of resident memory for each of so many idle sessions with listener `kind`."""
    port, pid = relay.ports[kind], relay.process.pid
    with sessions(port, WARMING, ca):
        pass
    before = resident(pid)
    with sessions(port, count, ca):
        return (resident(pid) - before) / count / 1024


def hold(host: str, port: int, count: int, ca: str | None) -> None:
    """The clients' process."""
    context = ssl.create_default_context(cafile=ca) if ca else None
    held = [_session(host, port, context) for _ in range(count)]
    print("all there", flush=True)
    sys.stdin.read()
    for one in held:
        one.close()


def _session(host: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=60)
    _hear(connection, b"220")
    _say(connection, b"EHLO client.example", b"250")
    if context is None:
        return connection
    _say(connection, b"STARTTLS", b"220")
    secure = context.wrap_socket(connection, server_hostname="localhost")
    _say(secure, b"EHLO client.example", b"250")
    return secure


def _say(connection: socket.socket, line: bytes, expected: bytes) -> None:
    connection.sendall(line + b"\r\n")
    _hear(connection, expected)


def _hear(connection: socket.socket, expected: bytes) -> None:
    reply = b""
    while not (reply.endswith(b"\r\n") and reply.splitlines()[-1][3:4] == b" "):
        part = connection.recv(4096)
        if not part:
            sys.exit(f"the relay hung up after {reply!r}")
        reply += part
    if not reply.startswith(expected):
        sys.exit(f"expected {expected!r}, the relay said {reply!r}")


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, most), most))
    print(f"{'kind':10}{'sessions':>10}{'KB each':>10}{'bar':>6}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates = make_certificates(folder)
        for kind, bar in BARS.items():
            ca = certificates.ca if kind == "STARTTLS" else None
            for number in range(ROUNDS):
                with running_relay(folder / f"{kind}{number}", tables(certificates)) as relay:
                    each = growth(relay, kind, SESSIONS, ca)
                print(f"{kind:10}{SESSIONS:>10}{each:>10.1f}{bar:>6}", flush=True)


if __name__ == "__main__":
    hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)

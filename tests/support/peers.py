"""Foreign programs the tests run against: found, started on loopback, ended by pid.

A test calls `require("swaks", "swaks")` before it uses one. Without the program the test skips and says
what to install; with RELAY_REQUIRE_PEERS=1 (as `.ci/run` sets it) it fails, so that a green run has seen them all.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
WORKERS = 10  # of pytest-xdist, that have ports of their own
PATIENCE = 20.0  # seconds a peer gets to come up or to finish; only a broken one takes them


def missing(reason: str) -> None:
    """Skip the test for `reason`, or fail it when every peer must be there."""
    if os.environ.get("RELAY_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def require(program: str, package: str) -> str:
    """The path of `program`, a name or an absolute path. `package` is what apt calls its package."""
    found = shutil.which(program, path=_PATH)
    if found is None:
        missing(f"{program} is not installed: apt install {package}")
    assert found is not None
    return found


def require_root(program: str) -> None:
    """`program` changes its user while it runs, which only root may do."""
    if os.geteuid() != 0:
        missing(f"{program} can be started by root only")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, nor will before its server does, or while that is dead.

    It is below those that the kernel gives to clients and to who asks for any; it comes round again
    after two thousand others; and another worker of pytest-xdist gets others.
    """
    for port in islice(_ports(), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port on 127.0.0.1")


@cache
def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ours = [*range(12_000 + worker % WORKERS, 32_000, WORKERS)]
    random.shuffle(ours)
    return cycle(ours)


def wait_until(what: str, holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return as soon as `holds()` is true; AssertionError naming `what` when it is not within `patience` seconds."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"waited {patience:g} s in vain: {what}"
        time.sleep(0.01)


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether host:port takes a connection."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@contextmanager
def open_folder(name: str) -> Iterator[Path]:
    """A folder under /tmp that other users may enter (pytest's own may not be), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"relay-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(command: Sequence[str], *, log: Path, ports: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground until the block ends; yields once it listens on all `ports`.

    Its output goes to `log`, which is shown when it does not come up.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:

        def up() -> bool:
            assert process.poll() is None, f"{command[0]} ended at once:\n{log.read_text(errors='replace')}"
            return all(listens(port) for port in ports)

        try:
            wait_until(f"{command[0]} listens on {ports}", up)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text(errors='replace')}") from None
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

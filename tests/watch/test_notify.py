"""What a service manager hears from us, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.fact import Fact
from relay.watch.notify import Notify
from tests.support.peers import PATIENCE, free_port


class Manager:
    """The receiving end. name: what $NOTIFY_SOCKET would say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)
        self._socket.bind(name.replace("@", "\0"))

    def hear(self) -> dict[str, str]:
        """The next datagram's values by name."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def heard_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    random = secrets.token_hex(8)
    manager = Manager(str(tmp_path / "n") if request.param == "path" else f"@relay-test-{random}")
    yield manager
    manager.close()


class FakeClock(SystemClock):
    """12.5 seconds after the machine's start; sleeping takes a turn of the loop, and is written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return 12.5

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def make(environ: dict[str, str], clock: FakeClock | None = None, facts: list[Fact] | None = None) -> Notify:
    return Notify(environ, clock or FakeClock(), (facts if facts is not None else []).append)


def test_a_life(manager: Manager) -> None:
    facts: list[Fact] = []
    notify = make({"NOTIFY_SOCKET": manager.name}, facts=facts)
    notify.ready()
    assert manager.hear() == {"READY": "1", "STATUS": "taking mail"}
    notify.reloading()
    # sd_notify(3): RELOADING=1 comes with the time, in microseconds, in the same datagram
    assert manager.hear() == {
        "RELOADING": "1",
        "MONOTONIC_USEC": "12500000",
        "STATUS": "reading the configuration again",
    }
    notify.ready("by the old configuration")
    assert manager.hear() == {"READY": "1", "STATUS": "by the old configuration"}
    notify.stopping()
    assert manager.hear() == {"STOPPING": "1", "STATUS": "finishing what is in flight"}
    assert manager.heard_nothing()
    assert not facts


async def test_the_watchdog_hears_twice_in_its_time(manager: Manager) -> None:
    clock = FakeClock()
    environ = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    alive = asyncio.create_task(make(environ, clock).keepalive())
    heard = [await asyncio.to_thread(manager.hear) for _ in range(3)]
    alive.cancel()
    await asyncio.wait([alive])
    assert heard == [{"WATCHDOG": "1"}] * 3
    assert set(clock.slept) == {15.0}


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "\u0663"},  # a digit, for Python
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},  # another's, that we inherited
    ],
)
async def test_no_watchdog_waits(manager: Manager, watchdog: dict[str, str]) -> None:
    await make({"NOTIFY_SOCKET": manager.name, **watchdog}).keepalive()
    assert manager.heard_nothing()


@pytest.mark.parametrize("name", [None, "", "relative", "vsock:2:1234"])
async def test_without_a_service_manager_nothing_is_said(name: str | None) -> None:
    facts: list[Fact] = []
    environ = {"WATCHDOG_USEC": "30000000"} | ({"NOTIFY_SOCKET": name} if name is not None else {})
    notify = make(environ, facts=facts)
    notify.ready()
    notify.reloading()
    notify.stopping()
    await notify.keepalive()
    assert not facts


def test_a_service_manager_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    facts: list[Fact] = []
    make({"NOTIFY_SOCKET": str(tmp_path / "gone")}, facts=facts).ready()
    assert [(fact.event, fact.level, fact.values["untold"]) for fact in facts] == [
        ("watch.trouble", "warning", "READY=1")
    ]


def test_a_service_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    facts: list[Fact] = []
    manager = Manager(str(tmp_path / "n"))
    notify = make({"NOTIFY_SOCKET": manager.name}, facts=facts)
    for _ in range(100_000):  # Linux queues `net.unix.max_dgram_qlen` of them, 10 or 512 as a rule
        notify.ready()
        if facts:
            break
    manager.close()
    assert [fact.event for fact in facts] == ["watch.trouble"]


def test_the_relay_tells_its_life(tmp_path: Path) -> None:
    """READY once it takes mail, RELOADING and READY around each reload, good or bad, STOPPING; "alive" at all times."""
    manager = Manager(str(tmp_path / "n"))
    config = tmp_path / "relay.toml"
    good = (
        f'hostname = "localhost"\nweb.port = {free_port()}\n'
        f'[listener.capture]\nrole = "capture"\nport = {free_port()}\n'
    )
    config.write_text(good)
    environ = {**os.environ, "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "60000000"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "serve", "-c", str(config)], cwd=tmp_path, env=environ, stderr=log
        )

    def hear(name: str) -> dict[str, str]:
        """The next datagram with `name`; only "alive" may come before it."""
        while "WATCHDOG" in (heard := manager.hear()):
            alive.append(heard)
        assert name in heard, (heard, (tmp_path / "log").read_text())
        return heard

    alive: list[dict[str, str]] = []
    try:
        assert hear("READY")["STATUS"] == "taking mail"
        config.write_text(good + "[limit]\nerrors = 5\n")
        process.send_signal(signal.SIGHUP)
        assert int(hear("RELOADING")["MONOTONIC_USEC"]) > 0
        assert hear("READY")["STATUS"] == "taking mail"
        config.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        hear("RELOADING")
        assert "rejected" in hear("READY")["STATUS"]
        process.terminate()
        hear("STOPPING")
        assert process.wait(PATIENCE) == 0
        assert alive
    finally:
        manager.close()
        if process.poll() is None:
            process.kill()
            process.wait()

"""Tells the service manager how we are: ready, reloading, stopping, alive. Without one, nothing is said.

The loop that serves mail says "alive" itself, so that one that hangs is ended and started anew.

STANDARDS  sd_notify(3): datagrams of `NAME=value` lines to $NOTIFY_SOCKET, a path or, with `@`, an abstract
           name; sd_watchdog_enabled(3): $WATCHDOG_USEC, $WATCHDOG_PID.
TRUSTS     the environment, which is the service manager's.
FAILS      a `watch.trouble` fact; the relay goes on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from relay.clock import Clock
from relay.fact import Fact, Record


class Notify:
    def __init__(self, environ: Mapping[str, str], clock: Clock, record: Record) -> None:
        self._clock, self._record = clock, record
        name = environ.get("NOTIFY_SOCKET", "")
        # vsock:… is for whole virtual machines.
        self._address = f"\0{name[1:]}" if name.startswith("@") else name if name.startswith("/") else ""
        self._watchdog = _watchdog(environ) if self._address else 0.0

    def ready(self, status: str = "taking mail") -> None:
        """Mail is taken: after the start, and after each reload, whatever came of it.

        status: a line that `systemctl status` shows.
        """
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        now = int(self._clock.monotonic() * 1_000_000)
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the configuration again")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=finishing what is in flight")

    async def keepalive(self) -> None:
        """Say "alive" twice in the time the watchdog waits, until cancelled; returns if none waits."""
        while self._watchdog:
            self._send("WATCHDOG=1")
            await self._clock.sleep(self._watchdog / 2)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a manager that reads nothing must not hold up mail
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            values = {"error": error.strerror or str(error), "untold": lines[0]}
            self._record(Fact("watch.trouble", "", values, "warning"))


def _watchdog(environ: Mapping[str, str]) -> float:
    """How many seconds the watchdog waits; 0.0 if there is none, or it waits for another process."""
    waits = environ.get("WATCHDOG_USEC", "")
    if not (waits.isascii() and waits.isdigit()) or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(waits) / 1_000_000

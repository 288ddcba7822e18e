"""A relay that is killed and started again, on one folder and on the same ports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.ledger import Doubt
from tests.support.peers import free_port
from tests.support.queue_file import integrity
from tests.support.relay_process import HOSTNAME, to_toml

CONNECTIONS = 50  # to the next hop, at most
PATIENCE = 60.0  # seconds for a start and for a stop


def queueing(hop: int, **tables: Any) -> dict[str, Any]:
    """A relay that queues what its clients submit, for the hop at that port; times are scaled down."""
    queue = {"first_retry": "200ms", "max_retry": "2s", "crashes": 50, **tables.pop("queue", {})}
    return {
        "listener": {"in": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}},
        "hop": {"out": {"host": ["127.0.0.1"], "port": hop, "tls": "none", "connections": CONNECTIONS}},
        "route": {"all": {"hop": "out", "mode": "queue"}},
        "queue": queue,
        **tables,
    }


class CrashingRelay:
    """`relay serve` in a process of its own, as often as wanted. kills: monotonic seconds."""

    def __init__(self, folder: Path, tables: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data, self.web = folder, folder / "data", free_port()
        listeners = {name: {"port": free_port(), **one} for name, one in tables["listener"].items()}
        self.ports: dict[str, int] = {name: one["port"] for name, one in listeners.items()}
        log = {"level": "info", "format": "json"}
        defaults = {"hostname": HOSTNAME, "data": str(self.data), "web": {"port": self.web}, "log": log}
        self.tables = {**defaults, **tables, "listener": listeners}
        self.config = folder / "relay.toml"
        self.config.write_text(to_toml(self.tables))
        self.config.chmod(0o600)
        self.log = folder / "relay.log"
        self.kills: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def spawn(self, *prefix: str) -> None:
        """prefix: a command to run it under."""
        command = [*prefix, sys.executable, "-m", "relay", "serve", "-c", str(self.config)]
        with self.log.open("ab", buffering=0) as output:
            output.write(b"\n")  # a kill may have cut the last line short
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                process_group=0,  # of its workers too
            )

    async def ready(self) -> None:
        began = time.monotonic()
        while (await self.get("/readyz"))[0] != 200:
            assert self._process is not None
            assert self._process.poll() is None, f"relay serve ended:\n{self.tail()}"
            assert time.monotonic() < began + PATIENCE, f"relay serve is not ready:\n{self.tail()}"
            await asyncio.sleep(0.02)

    async def start(self) -> None:
        self.spawn()
        await self.ready()

    def kill(self) -> None:
        """SIGKILL, to its workers too, as the end of the machine would be."""
        assert self._process is not None
        assert self._process.poll() is None, f"relay serve ended before it was killed:\n{self.tail()}"
        self.kills.append(time.monotonic())
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    async def stop(self) -> float:
        """SIGTERM; the seconds it took. AssertionError unless it ends in order."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        status = await asyncio.to_thread(self._process.wait, PATIENCE)
        assert status == 0, f"relay serve ended with {status}:\n{self.tail()}"
        return time.monotonic() - began

    def end(self) -> None:
        """However it stands."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of its health server; 0 when it does not answer."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.web)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                answer = await asyncio.wait_for(reader.read(), PATIENCE)
            finally:
                writer.transport.abort()
        except (OSError, TimeoutError):
            return 0, ""
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split(" ")[1]) if " " in head else 0, body

    def facts(self) -> Iterator[dict[str, Any]]:
        """What it has logged, all lives together. A line that a kill cut short is none."""
        if not self.log.exists():
            return
        for line in self.log.read_bytes().splitlines():
            try:
                fact = json.loads(line)
            except ValueError:
                continue
            if isinstance(fact, dict) and "event" in fact:
                yield fact

    def doubts(self) -> list[Doubt]:
        found = []
        for fact in self.facts():
            if cause := fact.get("may_duplicate"):
                to = fact.get("to", ())
                recipients = [to] if isinstance(to, str) else to
                found += [Doubt(fact["id"], one, f"{fact['event']}: {cause}") for one in recipients]
        return found

    def troubles(self) -> list[str]:
        """What no crash and no hop excuses: a damaged file, and mistakes of our own (tracebacks in its log)."""
        found = [line for line in self.log.read_text(errors="replace").splitlines() if "Traceback" in line]
        said = integrity(self.data)
        return found if said == "ok" else [*found, f"integrity_check: {said}"]

    async def reload(self, text: str) -> bool:
        """SIGHUP with `text` as its configuration; whether it was taken."""
        taken, rejected = self._counts()
        self.config.write_text(text)
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        until = time.monotonic() + PATIENCE
        while self._counts() == (taken, rejected):
            assert time.monotonic() < until, f"neither taken nor rejected:\n{self.tail()}"
            await asyncio.sleep(0.02)
        return self._counts()[0] > taken

    def _counts(self) -> tuple[int, int]:
        text = self.log.read_bytes()
        return text.count(b'"event":"config.reloaded"'), text.count(b'"event":"config.rejected"')

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


@contextmanager
def crashing_relay(folder: Path, tables: Mapping[str, Any]) -> Iterator[CrashingRelay]:
    """Not started yet; ended with the block, however it stands."""
    relay = CrashingRelay(folder, tables)
    try:
        yield relay
    finally:
        relay.end()

"""The relay as its users run it: `relay serve -c FILE` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.peers import PATIENCE, free_port, wait_until

HOSTNAME = "relay.example"
START = 60.0  # seconds: with workers it is several interpreters that begin


class RelayProcess:
    """A running relay. ports: of its listeners, by name, on 127.0.0.1. web: the port of its health page."""

    def __init__(
        self, process: subprocess.Popen[bytes], ports: dict[str, int], web: int, log: Path, config: Path
    ) -> None:
        self.process = process
        self.ports = ports
        self.web = web
        self.config = config
        self._log = log

    @property
    def log(self) -> str:
        """All it has written to standard output and error."""
        return self._log.read_text(errors="replace")

    @property
    def arguments(self) -> bytes:
        """Its command line as others on the machine see it."""
        return Path(f"/proc/{self.process.pid}/cmdline").read_bytes()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of its health server; status 0 when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        page = self.get("/metrics")[1]
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))

    def reload(self, text: str) -> bool:
        """Write `text` as its configuration, SIGHUP; whether it was taken, once that is known."""
        taken, rejected = self.metric("relay_config_generation_total"), self.log.count(" config.rejected ")
        self.config.write_text(text)
        self.process.send_signal(signal.SIGHUP)

        def answered() -> bool:
            return (
                self.metric("relay_config_generation_total") > taken or self.log.count(" config.rejected ") > rejected
            )

        wait_until("the relay has taken or rejected its configuration", answered)
        return self.metric("relay_config_generation_total") > taken

    def stop(self) -> None:
        """SIGTERM; AssertionError unless it ends in order: exit 0 and no traceback in its log."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log
        assert "Traceback" not in self.log, self.log


@contextmanager
def running_relay(folder: Path, tables: Mapping[str, Any]) -> Iterator[RelayProcess]:
    """Start a relay with the configuration `tables`, ready when the block begins, stopped in order with it.

    Listeners without a port get a free one; hostname, data, log and web have defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    web = free_port()
    listeners = {name: {"port": free_port(), **listener} for name, listener in tables["listener"].items()}
    defaults = {"hostname": HOSTNAME, "data": str(folder / "data"), "web": {"port": web}, "log": {"level": "debug"}}
    config = folder / "relay.toml"
    config.touch(mode=0o600)  # it may hold passwords
    config.write_text(to_toml({**defaults, **tables, "listener": listeners}))
    log = folder / "relay.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "serve", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    ports = {name: listener["port"] for name, listener in listeners.items()}
    relay = RelayProcess(process, ports, web, log, config)

    def ready() -> bool:
        assert process.poll() is None, f"relay serve ended with {process.returncode}:\n{relay.log}"
        return relay.get("/readyz")[0] == 200

    try:
        wait_until("relay serve is ready", ready, START)
        yield relay
        relay.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def to_toml(tables: Mapping[str, Any]) -> str:
    """`tables` as a TOML document, every table inline."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in tables.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)  # JSON's scalars are TOML's

"""This relay, as its users run it, with the configuration that the task needs and defaults for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.network import HOST, NETWORK
from bench.peers.peer import LeftOut, Peer, Running, Task, Work
from bench.site import SELECTOR
from bench.table import RELAY
from tests.support.relay_process import running_relay


def tables(task: Task) -> dict[str, Any]:
    """Its configuration."""
    listener: dict[str, Any] = {"host": HOST, "role": "gateway", "domains": ["example.com"]}
    if task.work is Work.SIGN:
        listener = {"host": HOST, "role": "submission", "allow": [NETWORK], "senders": ["@example.org"]}
    hop: dict[str, Any] = {"host": ["127.0.0.1"], "port": task.sink, "tls": "none"}
    if task.tls:
        certificates = task.site.certificates
        listener |= {"tls": "starttls", "certificate": certificates.chain, "key": certificates.key}
        hop |= {"tls": "required", "ca": certificates.ca}
    made: dict[str, Any] = {
        "log": {"level": "info"},
        "limit": {"connections": 2 * task.connections, "exempt": [NETWORK]},
        "delay": {"skip": [NETWORK]},
        "dns": {"nameservers": ["127.0.0.1"]},
        "listener": {"bench": listener},
        "route": {"all": {"hop": "sink"}},
        "hop": {"sink": hop},
    }
    if task.work is Work.PLAIN:
        made["policy"] = {"skip": [NETWORK]}
    if task.work is Work.SIGN:
        key = {"selector": SELECTOR, "file": task.site.key}
        made["domain"] = {"ours": {"name": "example.org", "key": {"rsa": key}}}
    if task.queue:
        made["route"]["all"]["mode"] = "queue"
    if task.workers > 1:
        made["workers"] = task.workers
    return made


@contextmanager
def _running(task: Task, folder: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        try:
            relay = stack.enter_context(running_relay(folder, tables(task)))
        except AssertionError as error:
            raise LeftOut(f"it did not start: {_reason(str(error))}") from None
        yield Running(relay.ports["bench"], (relay.process.pid,), folder / "relay.log")


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "relay.toml" in line), lines[-1] if lines else "")


relay = Peer(RELAY, _running)

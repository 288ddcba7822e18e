"""Messages a second, 10 KB, 20 sessions: smtp-source → relay → smtp-sink beside smtp-source → smtp-sink.

`new` is one message a connection, `reuse` many. CPU is the relay's, in seconds for 1000 messages. Medians of
rounds taken in turn; only ratios within one run mean anything.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.peers import free_port, running
from tests.support.relay_process import running_relay

MESSAGES, SESSIONS, OCTETS, ROUNDS = 2000, 20, 10_240, 5


def tables(sink: int) -> dict[str, Any]:
    return {
        "log": {"level": "info"},
        "limit": {"connections_per_ip": 1000},
        "listener": {
            "plain": {"role": "gateway", "domains": ["example.com"]},
            "signed": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["@example.org"]},
        },
        "route": {"all": {"hop": "sink"}},
        "hop": {"sink": {"host": ["127.0.0.1"], "port": sink, "tls": "none", "connections": SESSIONS}},
        "domain": {
            "ours": {"name": "example.org", "key": {"r": {"selector": "r", "file": "keys/r.pem", "generate": True}}}
        },
    }


def load(port: int, *, reuse: bool, cpu: Callable[[], float]) -> tuple[float, float]:
    """Messages a second, and CPU seconds for 1000."""
    command = ["smtp-source", "-s", str(SESSIONS), "-l", str(OCTETS), "-m", str(MESSAGES)]
    command += ["-f", "ann@example.org", "-t", "bob@example.com", *(["-d"] if reuse else []), f"127.0.0.1:{port}"]
    began, spent = time.perf_counter(), cpu()
    subprocess.run(command, check=True)
    return MESSAGES / (time.perf_counter() - began), (cpu() - spent) / MESSAGES * 1000


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    sink = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin")
    if sink is None:
        sys.exit("smtp-source and smtp-sink are missing: apt install postfix")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sink, "-u", "nobody", f"127.0.0.1:{port}", "1000"]
        with (
            running(command, log=folder / "sink.log", ports=[port]),
            running_relay(folder / "r", tables(port)) as relay,
        ):
            pid = relay.process.pid
            ways: dict[str, tuple[int, Callable[[], float]]] = {
                "no relay": (port, lambda: 0.0),
                "relay": (relay.ports["plain"], lambda: cpu_of(pid)),
                "relay, RSA-2048 signature": (relay.ports["signed"], lambda: cpu_of(pid)),
            }
            found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
            for _ in range(ROUNDS):
                for way, (to, cpu) in ways.items():
                    for reuse in (False, True):
                        found.setdefault((way, reuse), []).append(load(to, reuse=reuse, cpu=cpu))
    print(f"{'way':28}{'':8}{'msgs/s':>9}{'spread':>16}{'CPU':>7}")
    for (way, reuse), rounds in found.items():
        rates = [rate for rate, _ in rounds]
        spread = f"{min(rates):.0f}-{max(rates):.0f}"
        cpu = statistics.median(cost for _, cost in rounds)
        print(f"{way:28}{'reuse' if reuse else 'new':8}{statistics.median(rates):9.0f}{spread:>16}{cpu:7.2f}")

"""Peers side by side: all are started, then each load goes to each of them in turn, round after round.

Each peer has a sink of its own, so that nothing which arrives late is counted for another. How many messages a
round has is found from a first load, which also warms the peer up and is not counted. A cell stops early
once it has taken PATIENCE times what its rounds should: a slow peer gets fewer rounds, never fewer than one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.load import Load, Sent, Sink, running_sink, send
from bench.measure import memory
from bench.options import Options
from bench.peers.peer import Failed, LeftOut, Peer, Running, Task
from bench.table import Table

MOST = 5000  # messages in a round
PATIENCE = 2


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    running: Running
    sink: Sink


@contextmanager
def contestants(peers: Sequence[Peer], task: Task, table: Table, options: Options) -> Iterator[list[Contestant]]:
    """Those that are asked for and start; of the others the table has the reason. All end with the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
        folder.chmod(0o755)
        started = []
        for number, peer in enumerate(peer for peer in peers if options.takes(peer.name)):
            own = folder / str(number)
            own.mkdir(mode=0o755)
            certificates = task.site.certificates
            pair = (certificates.chain, certificates.key) if task.tls else ()
            sink = stack.enter_context(running_sink(*pair))
            try:
                running = stack.enter_context(peer.start(replace(task, sink=sink.port), own))
            except (LeftOut, AssertionError, pytest.skip.Exception) as reason:
                table.leave_out(peer.name, reason)
                continue
            started.append(Contestant(peer.name, running, sink))
        yield started


def compare(
    found: Sequence[Contestant],
    loads: Sequence[Load],
    options: Options,
    table: Table,
    values: Callable[[Sent, Contestant], dict[str, float]] | None = None,
    around: Callable[[Contestant], AbstractContextManager[None]] = lambda one: nullcontext(),
) -> None:
    """Fill the table: a row for each load and contestant. around: a round; values: after it, for the table."""
    values = values or rates
    failed: set[str] = set()
    counts: dict[tuple[Load, str], int] = {}
    spent: dict[tuple[Load, str], float] = {}
    for number in range(options.rounds):
        for load in loads:
            for one in found:
                cell = load, one.name
                if one.name in failed or spent.get(cell, 0) > PATIENCE * options.rounds * options.seconds:
                    continue
                try:
                    if number == 0:
                        counts[cell] = _count(load, one, options)
                    with around(one):
                        sent = send(load, one.running.port, one.sink, one.running.pids, counts[cell])
                except Failed as reason:
                    failed.add(one.name)
                    table.leave_out(one.name, f"{load.case}: {reason} ({one.running.trouble()})")
                    continue
                spent[cell] = spent.get(cell, 0) + sent.seconds
                table.add(load.case, one.name, **values(sent, one))


def rates(sent: Sent, one: Contestant) -> dict[str, float]:
    found = {"delivered_per_s": sent.delivered}
    if one.running.pids:
        found |= {"cpu_s_per_1000": sent.cpu, "memory_mb": memory(one.running.pids) / 1e6}
    return found


def _count(load: Load, one: Contestant, options: Options) -> int:
    """Messages that take about `options.seconds`; at least one for each session."""
    few = max(load.sessions, 10 if load.octets < 100_000 else 1)
    while True:
        first = send(load, one.running.port, one.sink, one.running.pids, few)
        if first.seconds > options.seconds / 3 or few == MOST:
            return max(load.sessions, min(int(first.delivered * options.seconds), MOST))
        few = min(max(2 * few, int(first.delivered * options.seconds / 2)), MOST)  # too few to tell

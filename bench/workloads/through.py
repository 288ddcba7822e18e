"""What W1, W2 and W3 have in common: 10 KB mails through each peer, on new and on reused connections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.comparison import compare, contestants
from bench.load import Load
from bench.options import Options
from bench.peers.peer import Peer, Task, Work
from bench.site import Site
from bench.table import Metric, Table

METRICS = (
    Metric("delivered_per_s", "delivered/s"),
    Metric("cpu_s_per_1000", "CPU-s per 1000", 2),
    Metric("memory_mb", "MB resident"),
)


def through(
    name: str, about: str, work: Work, mail: Path, peers: Sequence[Peer], site: Site, options: Options
) -> Table:
    """20 sessions; in full also 1 and 100."""
    table = Table(name, about, METRICS)
    loads = [
        Load(sessions, reuse, mail)
        for sessions in ((20,) if options.quick else (1, 20, 100))
        for reuse in (False, True)
    ]
    with contestants(peers, Task(work, site, 0, workers=options.workers), table, options) as found:
        compare(found, loads, options, table)
    return table

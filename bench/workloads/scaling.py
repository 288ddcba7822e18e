"""Scaling: W3 on reused connections by 1, 2, 4 and 8 workers of the relay.

CPU for a mail should stay flat.
"""

from __future__ import annotations

from dataclasses import replace

from bench.comparison import compare, contestants
from bench.load import Load
from bench.options import Options
from bench.peers.peer import Peer, Task, Work
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Table
from bench.workloads.through import METRICS

ABOUT = "W3 on reused connections, 20 sessions, by number of the relay's workers"


def _with_workers(count: int) -> Peer:
    return Peer(f"relay, workers = {count}", lambda task, folder: relay.start(replace(task, workers=count), folder))


PEERS = tuple(_with_workers(count) for count in (1, 2, 4, 8))


def run(site: Site, options: Options) -> Table:
    table = Table("scaling", ABOUT, METRICS)
    with contestants(PEERS, Task(Work.GATEWAY, site, 0), table, options) as found:
        compare(found, [Load(20, reuse=True, file=site.signed)], options, table)
    return table

"""W8: STARTTLS from the client and to the next hop; load and sink are of our own, `bench/tls_load.py`."""

from __future__ import annotations

from bench.comparison import compare, contestants
from bench.load import Load
from bench.options import Options
from bench.peers.direct import direct
from bench.peers.naive import naive
from bench.peers.peer import Task, Work
from bench.peers.postfix import postfix_disk, postfix_ram
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Table
from bench.workloads.through import METRICS

ABOUT = "10 KB mails, STARTTLS on both sides, 20 sessions"
PEERS = (relay, postfix_ram, postfix_disk, naive, direct)


def run(site: Site, options: Options) -> Table:
    table = Table("w8", ABOUT, METRICS)
    loads = [Load(20, reuse, site.mail, tls=True) for reuse in (False, True)]
    with contestants(PEERS, Task(Work.PLAIN, site, 0, tls=True, workers=options.workers), table, options) as found:
        compare(found, loads, options, table)
    return table

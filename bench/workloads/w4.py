"""W4: 10 MB mails, 1 and 4 sessions: MB a second, CPU a GB, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.comparison import Contestant, compare, contestants
from bench.load import Load, Sent
from bench.measure import Watch, resident
from bench.options import Options
from bench.peers.direct import direct
from bench.peers.haraka import haraka
from bench.peers.naive import naive
from bench.peers.peer import Task, Work
from bench.peers.postfix import postfix_disk, postfix_proxy, postfix_ram
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Metric, Table

ABOUT = "10 MB mails proxied; peak: resident memory at most in a round, beyond what it was before any mail"
PEERS = (relay, postfix_ram, postfix_disk, postfix_proxy, naive, haraka, direct)
OCTETS = 10_000_000
METRICS = (
    Metric("mb_per_s", "MB/s"),
    Metric("cpu_s_per_gb", "CPU-s per GB", 1),
    Metric("peak_mb_per_session", "peak MB/session", 1),
)


def run(site: Site, options: Options) -> Table:
    table = Table("w4", ABOUT, METRICS)
    with contestants(PEERS, Task(Work.PLAIN, site, 0, workers=options.workers), table, options) as found:
        idle = {one.name: resident(one.running.pids) for one in found}

        peaks: dict[str, int] = {}

        @contextmanager
        def watched(one: Contestant) -> Iterator[None]:
            watch = Watch(one.running.pids)
            try:
                yield
            finally:
                peaks[one.name] = watch.end()

        for sessions in (4,) if options.quick else (1, 4):

            def values(sent: Sent, one: Contestant, sessions: int = sessions) -> dict[str, float]:
                result = {"mb_per_s": sent.delivered * OCTETS / 1e6}
                if one.running.pids:
                    result["cpu_s_per_gb"] = sent.cpu / 1000 * (1e9 / OCTETS)
                    result["peak_mb_per_session"] = (peaks[one.name] - idle[one.name]) / sessions / 1e6
                return result

            load = Load(sessions, reuse=False, octets=OCTETS)
            compare(found, [load], options, table, values, watched)
    return table

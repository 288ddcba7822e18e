"""W5: what an idle session costs in memory, after EHLO, in clear text and after STARTTLS.

Growth of PSS, for each session, after some sessions have come and gone. Postfix starts a process for each, so
it gets fewer sessions; the clients, `bench.idle`, are a process of their own.
"""

from __future__ import annotations

import resource
from pathlib import Path

from bench.comparison import contestants
from bench.idle import sessions
from bench.measure import memory
from bench.network import HOST
from bench.options import Options
from bench.peers.haraka import haraka
from bench.peers.naive import naive
from bench.peers.peer import Running, Task, Work
from bench.peers.postfix import postfix_ram
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Metric, Table

ABOUT = "KB of memory for an idle session after EHLO"
PEERS = (relay, postfix_ram, naive, haraka)
WARMING = 20
MOST = {postfix_ram.name: 100}  # sessions, where more would only fill the machine with processes
METRICS = (Metric("kb_per_session", "KB a session", 1), Metric("sessions", "sessions"))


def run(site: Site, options: Options) -> Table:
    table = Table("w5", ABOUT, METRICS)
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    counts = [count for count in ((1000,) if options.quick else (1000, 5000)) if 2 * count < descriptors]
    rounds = 1 if options.quick else options.rounds
    for tls in (False, True):
        for _ in range(rounds):
            task = Task(Work.PLAIN, site, 0, tls=tls, workers=options.workers, connections=max(counts))
            for count in counts:
                # new ones each time: memory that was freed would be used again and not show
                with contestants(PEERS, task, table, options) as found:
                    for one in found:
                        held = min(count, MOST.get(one.name, count))
                        case = f"{count} {'STARTTLS' if tls else 'plain'}"
                        try:
                            each = _growth(one.running, held, site.certificates.ca if tls else None)
                        except SystemExit as reason:
                            table.leave_out(one.name, f"{case}: {reason} ({one.running.trouble()})")
                        else:
                            table.add(case, one.name, kb_per_session=each, sessions=held)
    return table


def _growth(running: Running, count: int, ca: Path | None) -> float:
    """KB a session, while so many are idle. SystemExit when the clients do not get them."""
    with sessions(running.port, WARMING, ca, HOST):
        pass
    before = memory(running.pids)
    with sessions(running.port, count, ca, HOST):
        return (memory(running.pids) - before) / count / 1024

"""W7: the relay's queue beside Postfix's, both on the same disk: 250 means that the mail is on it.

Flushes are counted by strace in a round of their own, which is not timed. The full form has a crowd that stays, too:
a queue that takes new mail in first must deliver some time.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time

from bench.comparison import Contestant, compare, contestants
from bench.load import Load, Sent, send
from bench.measure import processes
from bench.options import Options
from bench.peers.peer import Failed, Task, Work
from bench.peers.postfix import postfix_disk, postfix_ram
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Metric, Table
from tests.support.peers import require

ABOUT = "10 KB mails queued, 100 sessions: accepted, delivered, and flushes (fsync, fdatasync) for each mail"
PEERS = (relay, postfix_disk, postfix_ram)
METRICS = (
    Metric("accepted_per_s", "accepted/s"),
    Metric("delivered_per_s", "delivered/s"),
    Metric("cpu_s_per_1000", "CPU-s per 1000", 2),
    Metric("flushes_per_mail", "flushes a mail", 2),
)
TRACED = 1000  # mails
CROWD = 20_000  # mails without a pause


def run(site: Site, options: Options) -> Table:
    table = Table("w7", ABOUT, METRICS)
    loads = [Load(100, reuse, site.mail) for reuse in (False, True)]
    with contestants(PEERS, Task(Work.PLAIN, site, 0, queue=True, workers=options.workers), table, options) as found:
        compare(found, loads, options, table, _values)
        found = [one for one in found if one.name not in table.left_out]
        for load in loads:
            for one in found:
                table.add(load.case, one.name, flushes_per_mail=_flushes(load, one))
        for _ in range(0 if options.quick else options.rounds):
            for one in found:
                try:
                    sent = send(loads[-1], one.running.port, one.sink, one.running.pids, CROWD)
                except Failed as reason:
                    table.leave_out(one.name, f"{CROWD} mails: {reason}")
                    continue
                table.add(f"{CROWD} mails", one.name, **_values(sent, one))
    return table


def _values(sent: Sent, one: Contestant) -> dict[str, float]:
    return {"accepted_per_s": sent.accepted, "delivered_per_s": sent.delivered, "cpu_s_per_1000": sent.cpu}


def _flushes(load: Load, one: Contestant) -> float:
    """For each mail, all processes of the peer together."""
    calls = "fsync,fdatasync,sync_file_range,syncfs,sync"
    pids = [option for pid in processes(one.running.pids) for option in ("-p", str(pid))]
    command = [require("strace", "strace"), "-f", "-q", "-e", f"trace={calls}", "-e", "signal=none", *pids]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as tracer:
        time.sleep(1.0)  # strace says nothing once it has attached
        send(load, one.running.port, one.sink, one.running.pids, TRACED)
        time.sleep(0.5)
        tracer.send_signal(signal.SIGINT)
        assert tracer.stderr is not None
        text = tracer.stderr.read()
    return len(re.findall(rb"(?m)^(?:\[pid +\d+\] )?(?:fsync|fdatasync|sync_file_range|syncfs|sync)\(", text)) / TRACED

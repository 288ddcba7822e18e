"""W6: how long one mail takes on an idle machine, from connect to the 250 behind the final dot."""

from __future__ import annotations

import smtplib
import statistics
import time

from bench.comparison import contestants
from bench.network import HOST
from bench.options import Options
from bench.peers.haraka import haraka
from bench.peers.naive import naive
from bench.peers.peer import Task, Work
from bench.peers.postfix import postfix_disk, postfix_proxy, postfix_ram
from bench.peers.relay import relay
from bench.site import CLIENT, RECIPIENT, SENDER, Site
from bench.table import Metric, Table

ABOUT = "milliseconds from connect to 250, one client alone, a connection a mail"
PEERS = (relay, postfix_ram, postfix_disk, postfix_proxy, naive, haraka)
METRICS = (Metric("p50_ms", "p50 ms", 2), Metric("p99_ms", "p99 ms", 2))
PATIENCE = 2.0  # seconds for a round; a slow peer gets fewer mails into it
PAUSE = 0.005  # seconds between two mails, so that what a peer does after its 250 delays nobody
WORKS = {"W1": Work.PLAIN, "W2": Work.SIGN, "W3": Work.GATEWAY}


def run(site: Site, options: Options) -> Table:
    table = Table("w6", ABOUT, METRICS)
    for case, work in WORKS.items():
        mail = (site.signed if work is Work.GATEWAY else site.mail).read_bytes().replace(b"\n", b"\r\n")
        with contestants(PEERS, Task(work, site, 0, workers=options.workers), table, options) as found:
            for one in found:
                _times(one.running.port, mail, 10)
            for _ in range(options.rounds):
                for one in found:
                    times = _times(one.running.port, mail, 100)
                    table.add(case, one.name, p50_ms=statistics.median(times), p99_ms=_percentile(times, 99))
    return table


def _times(port: int, mail: bytes, count: int) -> list[float]:
    """Milliseconds for each mail."""
    times: list[float] = []
    end = time.perf_counter() + PATIENCE
    while len(times) < count and (not times or time.perf_counter() < end):
        began = time.perf_counter()
        with smtplib.SMTP(HOST, port, local_hostname=CLIENT, timeout=60) as client:
            client.sendmail(SENDER, [RECIPIENT], mail)
            times.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE)
    return times


def _percentile(times: list[float], part: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * part // 100)]

"""W6: how long one mail takes on an idle machine, from connect to the 250 behind the final dot, and each part of it."""

from __future__ import annotations

import smtplib
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

from bench.comparison import contestants
from bench.network import HOST
from bench.options import Options
from bench.peers.direct import direct
from bench.peers.haraka import haraka
from bench.peers.naive import naive
from bench.peers.peer import Failed, Task, Work
from bench.peers.postfix import postfix_disk, postfix_proxy, postfix_ram
from bench.peers.relay import relay
from bench.site import CLIENT, RECIPIENT, SENDER, Site
from bench.table import Metric, Table

ABOUT = "milliseconds from connect to 250, one client alone, a connection a mail"
PEERS = (relay, postfix_ram, postfix_disk, postfix_proxy, naive, haraka, direct)
PARTS = ("220", "EHLO", "MAIL", "RCPT", "DATA", "text")  # what is waited for: each reply, from the one before it
METRICS = (
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
    *[Metric(f"{part.lower()}_ms", f"{part} ms", 2) for part in PARTS],
)
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
                    try:
                        mails = _times(one.running.port, mail, 100)
                    except (Failed, OSError, smtplib.SMTPException) as reason:
                        table.leave_out(one.name, f"{case}: {reason} ({one.running.trouble()})")
                        continue
                    times = [sum(parts) for parts in mails]
                    parts = zip(METRICS[2:], zip(*mails, strict=True), strict=True)
                    medians = {metric.name: statistics.median(part) for metric, part in parts}
                    table.add(case, one.name, p50_ms=statistics.median(times), p99_ms=_percentile(times, 99), **medians)
    return table


def _times(port: int, mail: bytes, count: int) -> list[list[float]]:
    """Milliseconds for each part of each mail."""
    mails: list[list[float]] = []
    end = time.perf_counter() + PATIENCE
    while len(mails) < count and (not mails or time.perf_counter() < end):
        mails.append(_send(port, mail))
        time.sleep(PAUSE)
    return mails


def _send(port: int, mail: bytes) -> list[float]:
    """Milliseconds for each part of one mail."""
    with smtplib.SMTP(local_hostname=CLIENT, timeout=60) as client:
        steps: tuple[Callable[[], tuple[int, bytes]], ...] = (
            lambda: client.connect(HOST, port),
            client.ehlo,
            lambda: client.mail(SENDER, [f"size={len(mail)}"]),
            lambda: client.rcpt(RECIPIENT),
            lambda: client.docmd("data"),
            lambda: _text(client, mail),
        )
        times = [time.perf_counter()]
        for step in steps:
            code, text = step()
            if code >= 400:
                raise Failed(f"{code} {text.decode()}")
            times.append(time.perf_counter())
    return [(after - before) * 1000 for before, after in pairwise(times)]


def _text(client: smtplib.SMTP, mail: bytes) -> tuple[int, bytes]:
    client.send(mail + b".\r\n")  # no line of it begins with a dot
    return client.getreply()


def _percentile(times: list[float], part: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * part // 100)]

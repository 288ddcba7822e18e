"""W1, 10 KB mails proxied as they come."""

from __future__ import annotations

from bench.options import Options
from bench.peers.direct import direct
from bench.peers.haraka import haraka
from bench.peers.naive import naive
from bench.peers.peer import Work
from bench.peers.postfix import postfix_disk, postfix_proxy, postfix_ram
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Table
from bench.workloads.through import through

ABOUT = "10 KB mails proxied as they come"
PEERS = (relay, postfix_ram, postfix_disk, postfix_proxy, naive, haraka, direct)


def run(site: Site, options: Options) -> Table:
    return through("w1", ABOUT, Work.PLAIN, site.mail, PEERS, site, options)

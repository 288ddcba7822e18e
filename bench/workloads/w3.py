"""W3, gateway: SPF, DKIM and DMARC of signed 10 KB mails."""

from __future__ import annotations

from bench.options import Options
from bench.peers.haraka import haraka
from bench.peers.naive import naive
from bench.peers.peer import Work
from bench.peers.postfix import postfix_disk, postfix_ram
from bench.peers.relay import relay
from bench.site import Site
from bench.table import Table
from bench.workloads.through import through

ABOUT = "gateway: SPF, DKIM and DMARC of signed 10 KB mails"
PEERS = (relay, postfix_ram, postfix_disk, naive, haraka)


def run(site: Site, options: Options) -> Table:
    return through("w3", ABOUT, Work.GATEWAY, site.signed, PEERS, site, options)

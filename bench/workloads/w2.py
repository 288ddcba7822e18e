"""W2, smart host: 10 KB mails signed with RSA-2048."""

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

ABOUT = "smart host: 10 KB mails signed with RSA-2048"
PEERS = (relay, postfix_ram, postfix_disk, naive, haraka)


def run(site: Site, options: Options) -> Table:
    return through("w2", ABOUT, Work.SIGN, site.mail, PEERS, site, options)

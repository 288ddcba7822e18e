"""Whether each peer does the work of W2 and W3: one mail through it, and what it added is looked for.

Ends with status 1 when a peer that started did not do it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.load import Load
from bench.peers.naive import naive
from bench.peers.peer import LeftOut, Peer, Task, Work
from bench.peers.postfix import postfix_disk, postfix_ram
from bench.peers.relay import relay
from bench.site import Site, running_site
from tests.support.clients import Transport
from tests.support.peers import wait_until
from tests.support.smtp_sink import running_smtp_sink

PEERS = (relay, postfix_ram, postfix_disk, naive)
MARKS = {
    Work.SIGN: (b"DKIM-Signature:", b"d=example.org", b"a=rsa-sha256"),
    Work.GATEWAY: (b"spf=pass", b"dkim=pass", b"dmarc=pass"),
}
_SPF = b"Received-SPF: Pass"  # policyd-spf's way to say it


def added(peer: Peer, work: Work, site: Site, folder: Path) -> bytes:
    """What stands above the mail's own first field once it has gone through the peer."""
    mail = site.signed if work is Work.GATEWAY else site.mail
    with running_smtp_sink() as sink:
        task = Task(work, site, sink.ports[Transport.PLAIN])
        with peer.start(task, folder) as running:
            subprocess.run(Load(1, file=mail).command(running.port, 1), check=True)
            wait_until(f"{peer.name} delivers", sink.received)
        [received] = sink.received()
    own = mail.read_bytes().partition(b"\n")[0]
    return received.partition(own)[0]


def main() -> None:
    missing = False
    with running_site() as site:
        for work, marks in MARKS.items():
            for peer in PEERS:
                with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
                    folder = Path(name)
                    folder.chmod(0o755)
                    try:
                        text = added(peer, work, site, folder).replace(_SPF, b"spf=pass")
                    except (LeftOut, pytest.skip.Exception) as reason:
                        print(f"{work:10}{peer.name:30}left out: {reason}")
                        continue
                absent = [mark.decode() for mark in marks if mark not in text]
                missing |= bool(absent)
                print(f"{work:10}{peer.name:30}{'misses ' + ', '.join(absent) if absent else 'does it'}", flush=True)
    if missing:
        sys.exit(1)

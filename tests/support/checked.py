"""A gateway that checks its mail: the relay, a mailbox server behind it, and a DNS that knows a few domains.

Clients come through a load balancer on loopback, which says whatever address a test wants them to have.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.sign import sign
from relay.gateway import Gateway
from tests.support.dkim_signer import record, rsa_key
from tests.support.dns import DnsServer, dns_server
from tests.support.mail import split
from tests.support.mailbox import Mailbox, mailbox
from tests.support.running import Running, running
from tests.support.transcript import Dialogue

OWN, LIST, SPOOFER = "192.0.2.1", "198.51.100.7", "203.0.113.66"  # theirs.org's server, a mailing list, anybody
ZONE: dict[str, list[Any]] = {
    "theirs.org": [{"TXT": "v=spf1 ip4:192.0.2.0/24 -all"}],
    "_dmarc.theirs.org": [{"TXT": "v=DMARC1; p=reject"}],
    "r._domainkey.theirs.org": [{"TXT": record(rsa_key())}],
    "mail.theirs.org": [{"A": OWN}, {"TXT": "v=spf1 a -all"}],
    "1.2.0.192.in-addr.arpa": [{"PTR": "mail.theirs.org"}],
    "_dmarc.careful.org": [{"TXT": "v=DMARC1; p=quarantine"}],
    "_dmarc.easy.org": [{"TXT": "v=DMARC1; p=none"}],
    "_dmarc.broken.org": ["SERVFAIL"],
    "list.org": [{"TXT": f"v=spf1 ip4:{LIST} -all"}],
    "l._domainkey.list.org": [{"TXT": record(rsa_key())}],
    "spoofer.org": [{"TXT": f"v=spf1 ip4:{SPOOFER} -all"}],
}
KEY = SigningKey("theirs.org", "r", Algorithm.RSA, rsa_key())
CONTENT = (
    b"From: Ann <ann@theirs.org>\r\nTo: bob@ours.org\r\nSubject: hello\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@theirs.org>\r\n\r\nhello\r\n"
)
SIGNED = sign(CONTENT, [KEY])


@dataclass(frozen=True)
class Checked:
    relay: Running
    dns: DnsServer
    box: Mailbox

    @property
    def gateway(self) -> Gateway:
        return self.relay.app._now.pipeline._gateway

    async def open(self, ip: str = OWN, helo: str = "mail.theirs.org") -> Dialogue:
        """A session of a client of address `ip`, after its EHLO."""
        dialogue = await Dialogue.open(self.relay.port("gateway"))
        await dialogue.play(f"C: PROXY TCP4 {ip} 198.51.100.25 40000 25\nS: 220 *\nC: EHLO {helo}\nS: 250 *")
        return dialogue

    async def send(
        self, content: bytes, ip: str = OWN, sender: str = "ann@theirs.org", helo: str = "mail.theirs.org"
    ) -> str:
        """The reply to the final dot of one message. No line of it may begin with a dot."""
        dialogue = await self.open(ip, helo)
        try:
            await dialogue.play(
                f"C: MAIL FROM:<{sender}>\nS: 250 *\nC: RCPT TO:<bob@ours.org>\nS: 250 *\nC: DATA\nS: 354 *"
            )
            dialogue.send(content + b".\r\n")
            return await dialogue.reply()
        finally:
            await dialogue.close()

    async def spoof(self, author: str = "ann@theirs.org") -> str:
        """Mail in the name of `author`, from who may only send for another domain."""
        content = CONTENT.replace(b"ann@theirs.org", author.encode())
        return await self.send(content, SPOOFER, "eve@spoofer.org", "spoofer.org")

    @property
    def id(self) -> str:
        """Of the message that came last."""
        return self.relay.of("accept.received")[-1].id

    @property
    def decision(self) -> dict[str, object]:
        """What was decided about the only message."""
        [fact] = self.relay.of("decide.decided")
        return dict(fact.values)


@asynccontextmanager
async def checked(data: Path, zone: dict[str, list[Any]] | None = None, **tables: Any) -> AsyncIterator[Checked]:
    """zone: other than ZONE. tables: other than the plainest. Submission is open to loopback."""
    async with dns_server(ZONE if zone is None else zone, silent=True) as dns, mailbox() as box:
        given = {
            "listener": {
                "gateway": {"role": "gateway", "domains": ["ours.org"], "proxy_from": ["127.0.0.0/8"]},
                "submission": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]},
            },
            "route": {"all": {"hop": "mailbox"}},
            "hop": {"mailbox": {"host": ["127.0.0.1"], "port": box.port, "tls": "none"}},
            "dns": {"nameservers": [dns.nameserver]},
            "policy": {},
            **tables,
        }
        async with running(given, data) as relay:
            yield Checked(relay, dns, box)


def names(content: bytes) -> list[str]:
    """The names of the header fields, from the top."""
    return [field.partition(b":")[0].decode() for field in split(content)[0]]


def results(content: bytes) -> dict[str, str]:
    """What the topmost field, which must be ours, says of each method; the first result of each."""
    name, _, value = split(content)[0][0].partition(b":")
    assert name == b"Authentication-Results"
    who, *found = re.sub(rb"\r\n[ \t]+", b" ", value).decode().strip().split("; ")
    assert who.rstrip(";") == "relay.test"
    told: dict[str, str] = {}
    for result in found:
        method, _, word = result.partition(" ")[0].partition("=")
        told.setdefault(method, word)
    return told

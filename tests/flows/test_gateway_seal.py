"""ARC seals of a gateway: off unless asked for, and then of what it found."""

from pathlib import Path
from typing import Any

import dkim
import pytest

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.message import Message
from relay.publish.keys import dns_record
from tests.support.dns import dns_server
from tests.support.mailbox import mailbox
from tests.support.running import running
from tests.support.transcript import play

SENT = """
S: 220 *
C: EHLO client.test
S: 250 *
C: MAIL FROM:<eve@theirs.org>
S: 250 *
C: RCPT TO:<ann@ours.org>
S: 250 *
C: DATA
S: 354 *
C: From: eve@theirs.org
C: Subject: hello
C:
C: hello
C: .
S: 250 *
"""


@pytest.mark.parametrize("seals", [False, True])
async def test_a_gateway_seals_when_asked_to(tmp_path: Path, seals: bool) -> None:
    key = {"selector": "s", "file": str(tmp_path / "s.pem"), "generate": True}
    async with mailbox() as box, dns_server({"theirs.org": [{"TXT": "v=spf1 ip4:127.0.0.1 -all"}]}) as server:
        tables: dict[str, Any] = {
            "listener": {"gateway": {"role": "gateway", "domains": ["ours.org"]}},
            "route": {"all": {"hop": "mailbox"}},
            "hop": {"mailbox": {"host": ["127.0.0.1"], "port": box.port, "tls": "none"}},
            "domain": {"ours": {"name": "ours.org", "key": {"s": key}}},
            "dns": {"nameservers": [server.nameserver]},
            "policy": {"seal": "ours"} if seals else {},
        }
        async with running(tables, tmp_path / "data") as relay:
            await play(relay.port("gateway"), SENT)
    [arrived] = box.contents
    names = [field.name for field in Message.parse(arrived).fields]
    assert names[0] == b"authentication-results"
    assert (b"arc-seal" in names) is seals
    if seals:
        loaded = SigningKey.load("ours.org", "s", Algorithm.RSA, tmp_path / "s.pem")
        record = dns_record(loaded).encode()
        result, _, reason = dkim.arc_verify(arrived, dnsfunc=lambda name, timeout=5: record)
        assert result == b"pass", reason

"""Postfix as next hop with `identify = "xclient"`: it sees each client, and lets him introduce nobody else."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from pathlib import Path

from relay.address import Address
from relay.envelope import Client, Envelope
from relay.outcome import Result
from tests.support.certificates import make_certificates
from tests.support.clients import Transport
from tests.support.mail import crlf
from tests.support.postfix import DOMAIN, running_postfix
from tests.support.sending import Sending

TO = Address("ann", DOMAIN)
FIRST = Client("gateway", "gateway", ip_address("192.0.2.7"), 4711, helo="first.example")
SECOND = dataclasses.replace(FIRST, ip=ip_address("198.51.100.9"), helo="two=words+x y", extended=False)


async def test_postfix_sees_the_real_client(tmp_path: Path) -> None:
    with running_postfix(make_certificates(tmp_path)) as postfix:
        sending = Sending(postfix.ports[Transport.PLAIN], identify="xclient")
        for client in (FIRST, SECOND, FIRST):

            def change(envelope: Envelope, client: Client = client) -> None:
                envelope.client = client

            (outcome,) = await sending.deliver(TO, change=change)
            assert outcome.result is Result.DELIVERED, f"{outcome}\n{postfix.log}"
        await sending.close()
        received = sorted(crlf(mail).partition(b"\r\nReceived: ")[2].split(b"\r\n")[0] for mail in postfix.received())
        assert received == [
            b"from first.example (unknown [192.0.2.7])",
            b"from first.example (unknown [192.0.2.7])",
            b"from relay.example.org (unknown [198.51.100.9])",
        ], postfix.log
        # The first client finds his connection again; the second could not be introduced on it.
        assert sending.events().count("forward.connected") == 2

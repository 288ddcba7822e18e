"""Deliveries to a next hop, as the pipeline makes them."""

from __future__ import annotations

import time
from ipaddress import ip_address

from relay.address import Address
from relay.envelope import Client, Envelope, Tls, new_id
from relay.message import Message
from relay.outcome import NextHop, Outcome

PLAIN = b"From: Ann <ann@example.org>\r\nSubject: hello\r\n\r\nOne line.\r\n"
SOON = 60.0  # seconds that a delivery may take


def make_envelope(*recipients: str, login: str | None = None, tls: Tls | None = None, helo: str = "client") -> Envelope:
    client = Client("capture", "capture", ip_address("127.0.0.1"), 40000, helo=helo, tls=tls, login=login)
    addresses = [Address(*one.split("@")) for one in recipients or ("bob@example.net",)]
    return Envelope(new_id(time.time()), client, Address("ann", "example.org"), recipients=addresses)


async def deliver(hop: NextHop, content: bytes = PLAIN, envelope: Envelope | None = None) -> tuple[Outcome, ...]:
    envelope = envelope or make_envelope()
    until = time.monotonic() + SOON
    return await hop.deliver(envelope, Message.parse(bytearray(content)), envelope.recipients, until)

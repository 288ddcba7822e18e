"""Delivery reports: what they are about, and how Python's own `email` reads them."""

from __future__ import annotations

import email
import email.policy
from dataclasses import dataclass, replace
from email.message import EmailMessage
from ipaddress import ip_address
from typing import Any

from relay.address import Address, parse_mailbox
from relay.envelope import Client, Envelope, Notify
from relay.message import Message
from relay.queue.entry import Action, Queued, Recipient
from relay.queue.states import State

ARRIVED = 1_795_341_600.0  # Sun, 22 Nov 2026 10:00:00 +0000
MAIL = (
    b"Received: from a by b; c\r\nFrom: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: lunch\r\n"
    b"Message-ID: <1@example.org>\r\n\r\nAt noon?\r\n"
)


def address(text: str) -> Address:
    return parse_mailbox(text.encode(), utf8=True)


def recipient(
    to: str = "bob@example.net", action: Action = Action.FAILED, *, on: str = "", **changes: Any
) -> Recipient:
    """One to be reported; DELAYED: one who waits still. on: NOTIFY=."""
    state = State.WAITING if action is Action.DELAYED else State.REPORT
    values: dict[str, Any] = {
        "reply": {Action.FAILED: "550 5.1.1 no such user", Action.DELAYED: "450 4.2.1 busy"}.get(
            action, "250 2.0.0 OK"
        ),
        "host": "mx.example.net",
        "tried": ARRIVED + 60,
        "expires": ARRIVED + 432_000,
        "warn": ARRIVED + 14_400 if action is Action.DELAYED else None,
        "action": None if action is Action.DELAYED else action,
        "notify": Notify(on, changes.pop("original", "")),
    }
    return Recipient(address(to), "next", state, **values | changes)


def queued(
    *recipients: Recipient, sender: str | None = "ann@example.org", size: int = len(MAIL), **changes: Any
) -> Queued:
    """A message of Ann's. changes: of its envelope."""
    client = Client("submission", "submission", ip_address("192.0.2.1"), 40000, helo="client.example.org")
    values = {"recipients": [one.address for one in recipients], **changes}
    envelope = Envelope("0kqm0e2q5h7j4xyz", client, address(sender) if sender else None, **values)
    return Queued(envelope, size, ARRIVED, True, recipients)


@dataclass(frozen=True)
class Read:
    """A report as `email` reads it. fields: about the mail. recipients: the fields about each of them.

    kind: of the part that returns the mail, "" if there is none. returned: its octets, transfer encoding undone.
    """

    header: EmailMessage
    text: str
    status_kind: str
    fields: dict[str, str]
    recipients: list[dict[str, str]]
    kind: str = ""
    encoding: str = ""
    returned: bytes = b""


def read(report: Message | bytes) -> Read:
    """Raises AssertionError when it is no report (RFC 6522 §3)."""
    octets = bytes(report)
    assert octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998, "RFC 5322 §2.1.1"
    whole = _parse(octets)
    assert whole.get_content_type() == "multipart/report"
    assert not whole.defects
    parts = list(whole.iter_parts())
    assert len(parts) in (2, 3)
    assert not any(part.defects for part in parts)
    boundary = f"\r\n--{whole.get_boundary()}".encode()
    content = octets.partition(b"\r\n\r\n")[2]
    assert content.endswith(boundary + b"--\r\n")
    raw = (b"\r\n" + content).removesuffix(boundary + b"--\r\n").split(boundary + b"\r\n")[1:]
    assert len(raw) == len(parts)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in raw]
    about = blocks(bodies[1])
    status_kind = parts[1].get_content_type()
    assert whole.get_param("report-type") == status_kind.partition("/")[2]
    seen = Read(whole, parts[0].get_content().replace("\r\n", "\n"), status_kind, about[0], about[1:])
    if len(parts) == 2:
        return seen
    encoding = str(parts[2]["Content-Transfer-Encoding"] or "7bit")
    # Under a label of our making, since `email` looks into message/* instead of undoing their encoding.
    label = f"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    part = email.message_from_bytes(label.encode() + bodies[2], policy=email.policy.default)
    returned = part.get_payload(decode=True)
    assert isinstance(returned, bytes)
    return replace(seen, kind=parts[2].get_content_type(), encoding=encoding, returned=returned)


def blocks(octets: bytes) -> list[dict[str, str]]:
    """The groups of fields of a message/delivery-status, by `email`'s own reader of these."""
    label = b"Content-Type: message/delivery-status\r\n\r\n"
    found = []
    for block in _parse(label + octets).get_payload():
        assert isinstance(block, EmailMessage)
        assert not block.defects
        assert len(set(block)) == len(block), "a field stands twice"
        found.append({name: str(value) for name, value in block.items()})
    return found


def _parse(octets: bytes) -> EmailMessage:
    try:
        found = email.message_from_string(octets.decode(), policy=email.policy.default)
    except UnicodeDecodeError:
        found = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found

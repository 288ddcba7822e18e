"""Pure: the report that tells a sender what became of his mail, for the recipients of whom he wants to hear.

One report for all of them, from the null reverse-path: a multipart/report with a text for people, the fields for mail
programs (`delivery_status.py`), and the mail itself or its header.

STANDARDS  RFC 3461 §4.1, §5.2 (who is told), §6.1 (envelope), §6.2 with RFC 6522 §3, §4 (the parts, what is
           returned), RFC 3464 §2 (From, To), RFC 6533 §4 (UTF-8), RFC 3834 §5 (Auto-Submitted), RFC 2045 §6.
TRUSTS     our hostname, id and configuration. Of the mail nothing: its octets stand in a part of their own, whose
           boundary was not known when it was written, and under a label that is true of them.
FAILS      never: mail that cannot be returned as it is comes back as its header, or not at all.
"""

from __future__ import annotations

import binascii
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from relay.accept.wire import long_line
from relay.address import Address, domain_key, parse_mailbox
from relay.capabilities import Capabilities
from relay.config.queue import Bounce
from relay.edit.headers import date, folded
from relay.message import Message
from relay.queue.delivery_status import action, delivery_status, is_ascii, printable, remote, status
from relay.queue.entry import Action, Queued, Recipient
from relay.queue.schedule import wants

_WIDTH = 72  # of lines for people
# RFC 5322 §3.6.4, without its obsolete and quoted forms: what is not so plain is not worth a reference.
_MESSAGE_ID = re.compile(rb"\s*(<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,200}@[A-Za-z0-9.:\[\]_-]{1,200}>)\s*\Z")

# The value of NOTIFY= that asks for it (RFC 3461 §4.1).
_EVENTS = {Action.FAILED: "FAILURE", Action.DELAYED: "DELAY", Action.RELAYED: "SUCCESS"}
_SUBJECTS = {
    Action.FAILED: "Your mail could not be delivered",
    Action.DELAYED: "Your mail is delayed",
    Action.RELAYED: "Your mail was handed on",
}
_SECTIONS = {
    Action.FAILED: "It could not be delivered to the recipients below, and no more attempts will be made.",
    Action.DELAYED: "It could not be delivered to the recipients below yet. You need not do anything: the relay goes on"
    " trying, and you will hear from it if it gives up.",
    Action.RELAYED: "It was handed on for the recipients below, to a host that does not report what becomes of it.",
}
# What the sender can do, by the first letters of the status that fit.
_ADVICE = {
    "5.1.7": "Your own address was not accepted. Show this report to whoever runs your mail.",
    "5.1.8": "Your own address was not accepted. Show this report to whoever runs your mail.",
    "5.1.": "There seems to be no such address. Look for a mistake in it, or ask the recipient in another way.",
    "5.2.2": "The mailbox is full. Try again later, or reach the recipient in another way.",
    "5.2.3": "The mail is too large for this recipient. Send less at once, or a link to it.",
    "5.2.": "The mailbox takes no mail at present. Reach the recipient in another way.",
    "5.3.4": "The mail is too large. Send less at once, or a link to it.",
    "5.4.": "The way to the recipient is not set up correctly. Show this report to whoever runs your mail.",
    "5.6.7": "Letters outside ASCII in an address or in the header cannot be carried there. Send without them.",
    "5.6.": "The form of the mail cannot be carried there. Send it as plain text, with other things attached.",
    "5.7.": "A rule forbids it; the answer may say which. If that seems wrong, show this to whoever runs your mail.",
    "4.4.7": "You can send it again. If it is urgent, reach the recipient in another way.",
    "5.": "If the answer does not help, show this report to whoever runs your mail.",
}


class _Part(NamedTuple):
    """octets: as they stand in the report, encoded already. encoding: 7bit, 8bit or quoted-printable."""

    kind: str
    encoding: str
    octets: bytes


def author(bounce: Bounce, hostname: str) -> Address:
    """Whose name stands in From. A domain of his outside ASCII is written in A-labels: not all take SMTPUTF8."""
    if bounce.sender is None:
        return Address("postmaster", hostname)
    address = parse_mailbox(bounce.sender.encode(), utf8=True)
    return Address(address.local, domain_key(address.domain))


def addressee(queued: Queued, hostname: str) -> Address | None:
    """Who is told: the reverse-path, nobody else. None for `<>`: no report is ever made about a report."""
    sender = queued.envelope.reverse_path
    # RFC 5321 §4.5.1: of the bare Postmaster we know no other domain.
    return Address(sender.local, hostname) if sender is not None and not sender.domain else sender


def told(queued: Queued) -> tuple[Recipient, ...]:
    """Those of whose fate the sender is told (RFC 3461 §5.2.2, §5.2.5, §5.2.6), failures first."""
    if queued.envelope.reverse_path is None or not queued.is_reportable:
        return ()
    wanted = (one for one in queued.recipients if _is_wanted(one))
    return tuple(sorted(wanted, key=lambda one: list(Action).index(action(one))))


def build(
    queued: Queued,
    recipients: Sequence[Recipient],
    message: Message | None,
    id: str,
    now: float,
    hostname: str,
    bounce: Bounce,
    takes: Capabilities,
) -> Message:
    """The report about `recipients`, which `told` returned: at least one. It is not signed yet.

    message: the mail, or its header alone where it is larger than `bounce.max_size`; None if it cannot be read.
    id: of the report, new, and not to be guessed. now: seconds since the epoch. takes: what the report's hop takes.
    """
    utf8 = not is_ascii(recipients) and takes.smtputf8 and takes.eight_bit
    parts = [
        _explanation(queued, recipients, hostname),
        _status_part(delivery_status(queued, recipients, hostname, utf8=utf8), utf8=utf8),
    ]
    if message is not None and (returned := _returned(queued, recipients, message, bounce.max_size, takes)):
        parts.append(returned)
    sender = printable(str(addressee(queued, hostname)), utf8=True)
    boundary = f"=_{id}"
    header = [
        folded("From", "Mail delivery", f"<{author(bounce, hostname)}>"),
        folded("To", f"<{sender}>"),
        folded("Subject", _SUBJECTS[action(recipients[0])]),
        folded("Date", date(now)),
        folded("Message-ID", f"<{id}@{hostname}>"),
        *_references(message),
        folded("Auto-Submitted", "auto-replied"),
        folded("MIME-Version", "1.0"),
        # RFC 6522 §3: report-type is the subtype of the second part.
        folded(
            "Content-Type",
            "multipart/report;",
            f"report-type={parts[1].kind.partition('/')[2]};",
            f'boundary="{boundary}"',
        ),
    ]
    if any(part.encoding == "8bit" for part in parts):  # RFC 2045 §6.4: what is true of a part is true of the whole
        header.append(folded("Content-Transfer-Encoding", "8bit"))
    return Message.parse(b"".join([*header, b"\r\n", *_multipart(boundary, parts)]))


def _is_wanted(recipient: Recipient) -> bool:
    return wants(recipient.notify, _EVENTS[action(recipient)])


# --- the text for people -------------------------------------------------------------------------


def _explanation(queued: Queued, recipients: Sequence[Recipient], hostname: str) -> _Part:
    lines = [f"Your mail reached the relay {hostname} on", f"{date(queued.arrived)}."]
    for what, group in groupby(recipients, action):
        lines += ["", *textwrap.wrap(_SECTIONS[what], _WIDTH)]
        for recipient in group:
            lines += ["", f"<{printable(str(recipient.address), utf8=True)}>", *_story(recipient)]
    lines += [
        "",
        "What follows is for mail programs and for whoever runs your mail.",
        f"The relay knows it as {queued.envelope.id}.",
    ]
    text = "".join(f"{line}\r\n" for line in lines)
    if text.isascii():
        return _Part("text/plain; charset=us-ascii", "7bit", text.encode())
    return _Part("text/plain; charset=utf-8", "quoted-printable", _quoted_printable(text.encode()))


def _story(recipient: Recipient) -> Iterator[str]:
    """What happened to him, and what the sender can do; lines with their indent."""
    code, what = status(recipient), action(recipient)
    said = printable(recipient.reply, utf8=False)
    host = printable(remote(recipient), utf8=False) or "the relay"
    sentences = [f"{host} said: {said}"] if said else []
    if code == "4.4.7" and what is Action.FAILED:
        sentences.append(f"It was tried until {date(recipient.tried or recipient.expires)}.")
    if what is Action.FAILED:
        sentences.append(next(advice for start, advice in _ADVICE.items() if code.startswith(start)))
    if what is Action.DELAYED:
        sentences.append(f"It will be tried until {date(recipient.expires)}.")
    for sentence in sentences:
        # A word that is longer than the line stays whole: somebody may want to search for it.
        yield from textwrap.wrap(
            sentence,
            _WIDTH,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


# --- the mail that goes back ---------------------------------------------------------------------


def _returned(
    queued: Queued, recipients: Sequence[Recipient], message: Message, most: int, takes: Capabilities
) -> _Part | None:
    """The mail, where it may go back whole and can be labelled; else its header."""
    header = message.header
    utf8 = not header.isascii() and _is_utf8(header)
    if _wants_body(queued, recipients, most) and (header.isascii() or utf8):
        octets = bytes(message)
        if octets.isascii() and not long_line(octets):
            return _Part("message/rfc822", "7bit", octets)
        if utf8:
            return _carried("message/global", octets, takes.eight_bit and takes.smtputf8)
        # RFC 2046 §5.2.1: message/rfc822 cannot be encoded; RFC 6522 §3: its header can go back instead.
        if takes.eight_bit and not long_line(octets):
            return _Part("message/rfc822", "8bit", octets)
    header = _within(message, most)
    if not header:
        return None
    if header.isascii() and not long_line(header):
        return _Part("text/rfc822-headers", "7bit", header)
    if utf8:
        return _carried("message/global-headers", header, takes.eight_bit and takes.smtputf8)
    return _Part("text/rfc822-headers", "quoted-printable", _quoted_printable(header))


def _wants_body(queued: Queued, recipients: Sequence[Recipient], most: int) -> bool:
    """Whether the whole mail goes back, if it can. RFC 3461 §6.2: not where nothing failed, nor beyond `most` octets.

    RFC 6522 §3: where the sender does not say with RET= what he wants, it does.
    """
    failed = any(action(one) is Action.FAILED for one in recipients)
    return failed and queued.envelope.ret.upper() != "HDRS" and queued.size <= most


def _carried(kind: str, octets: bytes, as_it_is: bool) -> _Part:
    """RFC 6533 §4.5: 8bit, or in seven bits where the way back does not take SMTPUTF8."""
    if as_it_is and not long_line(octets):
        return _Part(kind, "8bit", octets)
    return _Part(kind, "quoted-printable", _quoted_printable(octets))


def _within(message: Message, most: int) -> bytes:
    """The header fields from the top; beyond `most` octets those that do not fit are left out."""
    kept, room = [], most
    for field in message.fields:
        if len(field.raw) <= room:
            kept.append(field.raw)
            room -= len(field.raw)
    return b"".join(kept)


def _references(message: Message | None) -> Iterator[bytes]:
    """In-Reply-To and References (RFC 5322 §3.6.4), so that the report stands beside the mail."""
    found = message.all(b"message-id") if message is not None else []
    if len(found) == 1 and (matched := _MESSAGE_ID.match(found[0].value)):
        yield folded("In-Reply-To", matched[1].decode())
        yield folded("References", matched[1].decode())


# --- MIME ----------------------------------------------------------------------------------------


def _status_part(octets: bytes, *, utf8: bool) -> _Part:
    if utf8:
        return _Part("message/global-delivery-status", "7bit" if octets.isascii() else "8bit", octets)
    return _Part("message/delivery-status", "7bit", octets)  # RFC 3464 §2.1: no other encoding


def _multipart(boundary: str, parts: Sequence[_Part]) -> Iterator[bytes]:
    for part in parts:
        yield f"--{boundary}\r\n".encode()
        yield folded("Content-Type", part.kind)
        if part.encoding != "7bit":
            yield folded("Content-Transfer-Encoding", part.encoding)
        yield b"\r\n"
        yield part.octets
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _quoted_printable(octets: bytes) -> bytes:
    return binascii.b2a_qp(octets, istext=True)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

"""Pure: the part of a report that mail programs read, message/delivery-status.

STANDARDS  RFC 3464 §2.1–2.3 (fields), RFC 3461 §6.3 (which of them, and from what), §9 (types), RFC 3463 §2, §3.5
           (codes), RFC 6533 §3, §4.1 (addresses outside ASCII).
TRUSTS     our hostname, id and times. Addresses, ENVID, ORCPT, hosts and replies are foreign: all of them go through
           `printable`, so that none can end its field or its line.
FAILS      never: what cannot be written is `?`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, ip_address

from relay import reply
from relay.accept import dsn
from relay.address import Address, parse_mailbox
from relay.edit.headers import date
from relay.envelope import Notify
from relay.errors import MalformedAddress
from relay.queue.entry import Action, Queued, Recipient
from relay.queue.states import State

MAX_VALUE = 900  # octets of a value: with its name it fits a line (RFC 5322 §2.1.1: 998), should it have no space
MAX_LINE = 78  # octets; longer only where there is no space to fold at

_CODE = re.compile(r"([245])\d\d(?: ([245])\.(\d{1,3})\.(\d{1,3})(?: |\Z))?")
# RFC 6533 §3, QCHAR; and EmbeddedUnicodeChar.
_PLAIN = re.compile(r"[!-*,-<>-\[\]-~]")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
# What `forward/` answers where the hop gave no reply of its own, or was not asked.
_OURS = frozenset(
    str(one)
    for one in (
        reply.HOP_UNREACHABLE,
        reply.HOP_TROUBLE,
        reply.HOP_TIMEOUT,
        reply.HOP_TLS,
        reply.TOO_BIG_HOP,
        reply.UTF8_HOP,
        reply.EIGHT_BIT_HOP,
        reply.DISAGREE,
        reply.INTERNAL,
    )
)


def action(recipient: Recipient) -> Action:
    """What there is to report: of one who still waits, that he does."""
    if recipient.state is State.WAITING:
        return Action.DELAYED
    return recipient.action or Action.FAILED


def status(recipient: Recipient) -> str:
    """The Status field's code. It is the reply's, where its class is that of the action.

    4.4.7 (RFC 3463 §3.5) for failed without a 5xx: delivery was temporarily impossible until the time was up.
    """
    found = _CODE.match(recipient.reply)
    wanted, otherwise = {
        Action.FAILED: ("5", "4.4.7"),
        Action.DELAYED: ("4", "4.0.0"),
        Action.RELAYED: ("2", "2.0.0"),
    }[action(recipient)]
    if found is None or found[1] != wanted:
        return otherwise
    if found[2] != wanted:
        return f"{wanted}.0.0"  # RFC 3461 §6.3 (g)
    return f"{wanted}.{int(found[3])}.{int(found[4])}"  # RFC 3464 §2.3.4: no leading zeros


def remote(recipient: Recipient) -> str:
    """The host whose reply it is; "" where we are the ones who say it, or nobody said anything."""
    return recipient.host if recipient.reply and recipient.reply not in _OURS else ""


def is_ascii(recipients: Sequence[Recipient]) -> bool:
    """All that a report says of them can be said in ASCII as it is."""
    return all(one.address.is_ascii and _EMBEDDED.search(one.notify.original) is None for one in recipients)


def delivery_status(queued: Queued, recipients: Sequence[Recipient], hostname: str, *, utf8: bool) -> bytes:
    """The fields, CRLF and all. utf8: as message/global-delivery-status, where UTF-8 may stand."""
    blocks = [_message_fields(queued, hostname), *(_recipient_fields(queued, one, utf8=utf8) for one in recipients)]
    return b"\r\n".join(b"".join(_field(name, value, utf8=utf8) for name, value in block) for block in blocks)


def printable(text: str, *, utf8: bool) -> str:
    """`text` with a `?` for each character that is not printable, or not ASCII; at most MAX_VALUE octets.

    No line end of any kind is printable, nor is what turns the direction of writing.
    """
    kept = "".join(one if one.isprintable() and (utf8 or one.isascii()) else "?" for one in text)
    return kept.encode()[:MAX_VALUE].decode("utf-8", "ignore")


def _message_fields(queued: Queued, hostname: str) -> Iterator[tuple[str, str]]:
    if queued.envelope.envid:
        yield "Original-Envelope-Id", _decoded(queued.envelope.envid)
    # RFC 3461 §6.3 (b): "dns" only for a fully-qualified name.
    yield "Reporting-MTA", f"{'dns' if '.' in hostname else 'x-local-hostname'}; {hostname}"
    yield "Arrival-Date", date(queued.arrived)


def _recipient_fields(queued: Queued, recipient: Recipient, *, utf8: bool) -> Iterator[tuple[str, str]]:
    if recipient.notify.original:
        yield "Original-Recipient", _original(recipient.notify, utf8=utf8)
    yield "Final-Recipient", _final(recipient.address, utf8=utf8)
    yield "Action", action(recipient)
    yield "Status", status(recipient)
    if host := remote(recipient):
        yield "Remote-MTA", f"dns; {_mta_name(host)}"
    if recipient.reply:
        # RFC 3464 §2.3.6: without a Remote-MTA it is the Reporting-MTA that says so.
        yield "Diagnostic-Code", f"smtp; {recipient.reply}"
    if recipient.tried:
        yield "Last-Attempt-Date", date(recipient.tried)
    yield "Final-Log-ID", queued.envelope.id
    if action(recipient) is Action.DELAYED:
        yield "Will-Retry-Until", date(recipient.expires)


def _original(notify: Notify, *, utf8: bool) -> str:
    """RFC 3461 §6.3 (d): ORCPT as the sender gave it, its xtext undone."""
    kind, _, xtext = notify.original.partition(";")
    text = _decoded(xtext)
    if kind.lower() != "utf-8":
        return f"{kind}; {text}"
    if not utf8:
        return f"{kind}; {text if text.isascii() else _embedded(text)}"
    plain = _EMBEDDED.sub(lambda found: _character(int(found[1], 16)), text)
    try:
        parse_mailbox(plain.encode("utf-8", "replace"), utf8=True)
    except MalformedAddress:
        return f"{kind}; {text}"  # RFC 6533 §3: what is no such address is copied without alteration
    return f"{kind}; {plain}"


def _final(address: Address, *, utf8: bool) -> str:
    text = str(address)
    if address.is_ascii:
        return f"rfc822; {text}"
    return f"utf-8; {text if utf8 else _embedded(text)}"


def _mta_name(host: str) -> str:
    """RFC 3461 §9.3: a domain, or an address literal."""
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return f"[{ip}]" if isinstance(ip, IPv4Address) else f"[IPv6:{ip}]"


def _decoded(xtext: str) -> str:
    """What xtext stands for; itself when it is not xtext."""
    decoded = dsn.decode(xtext.encode("utf-8", "replace"))
    return xtext if decoded is None else decoded.decode("latin-1")


def _embedded(text: str) -> str:
    """The 7-bit form of an address outside ASCII, utf-8-addr-xtext (RFC 6533 §3)."""
    return "".join(one if _PLAIN.match(one) else f"\\x{{{ord(one):02X}}}" for one in text)


def _character(number: int) -> str:
    return chr(number) if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else "\N{REPLACEMENT CHARACTER}"


def _field(name: str, value: str, *, utf8: bool) -> bytes:
    """One field with its CRLF. Unfolded (RFC 5322 §2.2.3) it has the value's own spaces again."""
    lines, line = [], f"{name}:"
    for word in re.split(r"(?<=\S) (?=\S)", printable(value, utf8=utf8)):
        if line != f"{name}:" and len(line.encode()) + 1 + len(word.encode()) > MAX_LINE:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "".join(f"{one}\r\n" for one in (*lines, line)).encode()

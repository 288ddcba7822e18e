"""The Received field: the one we add, and what those of others say about loops.

STANDARDS  RFC 5321 §4.4 (syntax), §6.3 (loops), RFC 3848 and RFC 6531 §4.3 (the words behind `with`).
TRUSTS     our hostname and the client's address. What the client said is written only where it is a
           domain or an address literal; of foreign Received fields only the by-clause is read, and the
           id of one that is by us.
FAILS      never: a field that cannot be read is a hop, and not one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from relay.address import domain_key
from relay.config.models import Limit
from relay.edit.headers import continued, date, folded
from relay.envelope import Envelope, Tls
from relay.lexical import Kind, tokens, unfold
from relay.message import Field, Message

MAX_TRACE = 1024  # octets of a foreign Received field that are read; in ours by and id end before

# A domain as hosts really call themselves (underscores), or an address literal (RFC 5321 §4.1.3).
_SAID = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?\Z|\[[A-Za-z0-9.:]{1,60}\]\Z")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def received_field(envelope: Envelope, hostname: str, time: float) -> bytes:
    """Our Received field for this transaction, CRLF included. time: seconds since the epoch.

    `for` is there only when there is one recipient: the others may be blind copies.
    """
    client = envelope.client
    begun = _begun(hostname, client.helo, client.address, _protocol(envelope), client.tls)
    units = [f"id {envelope.id}"]
    if len(envelope.recipients) == 1:
        units.append(f"for <{envelope.recipients[0]}>")
    units[-1] += ";"
    return continued(begun, *units, date(time)) + b"\r\n"


@lru_cache(1024)  # what the mails of a session have in common
def _begun(hostname: str, helo: str, address: str, protocol: str, tls: Tls | None) -> bytes:
    said = helo if _SAID.match(helo) else "invalid"
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    comment = [] if tls is None else [_tls_comment(tls)]
    return folded("Received", f"from {said} ({literal})", f"by {hostname} with {protocol}", *comment)[:-2]


def hops(message: Message) -> int:
    """How many Received fields the message has."""
    return len(message.all(b"received"))


def is_loop(message: Message, hostname: str, limit: Limit) -> bool:
    """Too many hosts, or too often ours, have had the message (RFC 5321 §6.3)."""
    count = hops(message)
    return count >= limit.received or (count > 0 and own_hops(message, hostname) >= limit.received_own)


def own_hops(message: Message, hostname: str) -> int:
    """How many of them say `by hostname`, in the by-clause and nowhere else."""
    ours, spelled = domain_key(hostname), hostname.lower().encode()
    return sum(
        spelled in field.raw.lower() and _received_by(field) == ours  # most fields are not worth a closer look
        for field in message.all(b"received")
    )


def own_id(message: Message, hostname: str) -> str | None:
    """The id in the topmost Received field that says `by hostname`; None without such a field or id."""
    ours = domain_key(hostname)
    for field in message.all(b"received"):
        if _received_by(field) == ours:
            return dict(_clauses(field)).get("id")
    return None


def _protocol(envelope: Envelope) -> str:
    """RFC 3848: ESMTP, with S for TLS and A for a login; RFC 6531 §4.3: UTF8SMTP when SMTPUTF8 was given."""
    client = envelope.client
    if not client.extended:
        return "SMTP"
    word = "UTF8SMTP" if envelope.smtputf8 else "ESMTP"
    return word + "S" * (client.tls is not None) + "A" * (client.login is not None)


def _tls_comment(tls: Tls) -> str:
    words = [word for word in (tls.version, tls.cipher) if _WORD.match(word)]
    return f"({' '.join(words)} {tls.bits} bits)"


def _received_by(field: Field) -> str | None:
    """The domain in the by-clause, as `domain_key` spells it; None when there is no such clause."""
    return next((domain_key(value.rstrip(".")) for word, value in _clauses(field) if word == "by"), None)


def _clauses(field: Field) -> Iterator[tuple[str, str]]:
    """The clauses of a Received field: the keyword in lower case, and its value.

    RFC 5321 §4.4: clauses are pairs of a keyword and its value; `from by by mx.example` is by mx.example.
    """
    pair: list[str] = []
    apart = True  # the next text begins a word
    for token in tokens(unfold(field.value[:MAX_TRACE]).decode("utf-8", "replace")):
        if token.kind is Kind.BROKEN or token.text == ";":
            break
        if token.kind in (Kind.SPACE, Kind.COMMENT):
            apart = True
        elif apart:
            if len(pair) == 2:
                yield pair[0].lower(), pair[1]
                pair = []
            pair.append(token.text)
            apart = False
        else:
            pair[-1] += token.text
    if len(pair) == 2:
        yield pair[0].lower(), pair[1]

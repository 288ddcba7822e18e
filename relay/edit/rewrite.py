"""Senders rewritten by the operator's `[masquerade.*]` tables, before signing: the reverse-path, From and Sender.

Of a field only the octets of its address change; display name, comments and folds stay. Sender is rewritten
like From, because a provider that asks whose address it is asks of both. A Reply-To is neither changed nor added:
where answers go is for the author to say.

STANDARDS  RFC 5321 §4.1.2, RFC 5322 §3.6.2 (From, Sender), §3.4 (mailbox), §2.1.1 (998 octets in a line).
TRUSTS     that the From field was read by `relay/author.py`, and that permission was asked for the addresses as
           they came. A Sender that cannot be read so is left as it is.
FAILS      never. `<>` is nobody's and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from relay.accept.login import may_send_as
from relay.address import Address, domain_key, parse_mailbox
from relay.config.models import Masquerade, Role
from relay.envelope import Envelope
from relay.errors import MalformedAddress
from relay.fact import Fact, Record
from relay.lexical import Kind, Token, tokens
from relay.message import Field, Message

MAX_LINE = 998  # octets, without the CRLF

_CFWS = (Kind.SPACE, Kind.COMMENT)


def masquerade(
    tables: Mapping[str, Masquerade], envelope: Envelope, message: Message, author: Address, record: Record
) -> tuple[Envelope, Message, Address]:
    """Envelope, message and author as they go out: of a submission, rewritten; of all else, as they came."""
    here = [
        table
        for table in tables.values()
        if envelope.client.role == Role.SUBMISSION
        and (not table.listener or envelope.client.listener in table.listener)
    ]
    if not here:
        return envelope, message, author
    sender = _masked(here, envelope.reverse_path) if envelope.reverse_path is not None else None
    fields = tuple(_rewritten(here, field) if field.name in (b"from", b"sender") else field for field in message.fields)
    new = _masked(here, author)
    if (sender, fields) != (envelope.reverse_path, message.fields):
        record(Fact("edit.rewritten", envelope.id, {"from": str(sender or "<>"), "author": str(new)}))
    return replace(envelope, reverse_path=sender), message.with_fields(fields), new


def _masked(tables: list[Masquerade], address: Address) -> Address:
    """The address that stands instead of `address`, by the first table that matches; itself if none does."""
    for table in tables:
        if may_send_as(table.match, address):
            local, _, domain = table.address.rpartition("@")
            # A-labels: the session may not speak SMTPUTF8.
            return Address(local or address.local, domain if domain.isascii() else domain_key(domain))
    return address


def _rewritten(tables: list[Masquerade], field: Field) -> Field:
    """The field with another address in it; itself if it has none of the tables' or not exactly one."""
    name, colon, value = field.raw.partition(b":")
    text = value.replace(b"\r\n", b"")
    try:
        start, end = _span(text.decode("utf-8"))
        old = parse_mailbox(text[start:end], utf8=True)
    except (UnicodeDecodeError, MalformedAddress):
        return field
    new = _masked(tables, old)
    if new == old:
        return field
    start, end = _folded_index(value, start), _folded_index(value, end - 1) + 1
    before, after = name + colon + value[:start], value[end:]
    return field._replace(raw=_lines(before, str(new).encode(), after))


def _span(text: str) -> tuple[int, int]:
    """Where the one address of a From or Sender field stands, in octets. Raises MalformedAddress.

    text: the unfolded value. The address is what stands in angle brackets, else all but comments and spaces.
    """
    found: list[tuple[Token, int, int]] = []
    end = 0
    for token in tokens(text):
        start, end = end, end + len(token.text.encode())
        found.append((token, start, end))
    opens, closes = ([at for at, (token, _, _) in enumerate(found) if token.text == sign] for sign in "<>")
    if len(opens) == len(closes) == 1:
        found = found[opens[0] + 1 : closes[0]]
    spans = [(start, end) for token, start, end in found if token.kind not in _CFWS]
    if not spans:
        raise MalformedAddress("no address")
    return spans[0][0], spans[-1][1]


def _folded_index(value: bytes, index: int) -> int:
    """Where the octet that stands at `index` of the unfolded value stands in `value`."""
    at = value.find(b"\r\n")
    while 0 <= at <= index:
        index += 2
        at = value.find(b"\r\n", at + 2)
    return index


def _lines(before: bytes, address: bytes, after: bytes) -> bytes:
    """The field put together again; folded around the address where a line would become too long."""
    if max(map(len, (before + address + after).split(b"\r\n"))) <= MAX_LINE:
        return before + address + after
    bracket = before.rstrip(b" \t")[-1:] == b"<"
    if bracket:
        opens = before.rindex(b"<")
        before, address = before[:opens], before[opens:] + address
        closes = after.index(b">") + 1
        address, after = address + after[:closes], after[closes:]
    # A line of white space only is none (RFC 5322 §3.2.2).
    if before.rpartition(b"\r\n")[2].strip():
        before += b"\r\n "
    if after.partition(b"\r\n")[0].strip():
        after = b"\r\n " + after
    return before + address + after

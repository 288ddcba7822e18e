"""Pure: what the queue's facts look like as rows, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from sqlalchemy import RowMapping

from relay.address import Address
from relay.envelope import Client, Envelope, Notify, Tls
from relay.message import CHUNK, Message
from relay.queue.entry import Action, Entry, Queued, Recipient
from relay.queue.states import State


def message_row(entry: Entry) -> dict[str, Any]:
    envelope = entry.envelope
    return {
        "id": envelope.id,
        "arrived": entry.arrived,
        "size": entry.message.size,
        "is_reportable": entry.is_reportable,
        "reverse_path": None if envelope.reverse_path is None else str(envelope.reverse_path),
        "envelope": _envelope_text(envelope),
    }


def recipient_row(id: str, one: Recipient) -> dict[str, Any]:
    """A recipient that nobody has claimed."""
    return {
        "message": id,
        "number": one.number,
        "address": str(one.address),
        "hop": one.hop,
        "state": one.state.value,
        "attempts": one.attempts,
        "crashes": one.crashes,
        "due": one.due,
        "expires": one.expires,
        "tried": one.tried,
        "warn": one.warn,
        "notify": one.notify.on,
        "original": one.notify.original,
        "reply": one.reply,
        "host": one.host,
        "cause": one.cause,
        "action": one.action and one.action.value,
        "owner": None,
        "token": None,
        "lease": None,
    }


def content_rows(id: str, message: Message) -> Iterator[dict[str, Any]]:
    """A small message is one piece; a large one is never copied whole."""
    pieces: Iterable[bytes | memoryview] = message.chunks()
    if message.size <= CHUNK:
        pieces = (bytes(message),)
    for number, piece in enumerate(pieces, 1):
        yield {"message": id, "number": number, "octets": piece}


def recipient(row: RowMapping) -> Recipient:
    return Recipient(
        _address(row["address"]),
        row["hop"],
        State(row["state"]),
        row["number"],
        row["attempts"],
        row["crashes"],
        row["due"],
        row["expires"],
        row["tried"],
        row["warn"],
        Notify(row["notify"], row["original"]),
        row["reply"],
        row["host"],
        row["cause"],
        Action(row["action"]) if row["action"] else None,
    )


def queued(row: RowMapping, recipients: Iterable[Recipient]) -> Queued:
    """row: of the message."""
    recipients = tuple(recipients)
    envelope = _envelope(row["id"], row["reverse_path"], row["envelope"], recipients)
    return Queued(envelope, row["size"], row["arrived"], bool(row["is_reportable"]), recipients)


def _envelope_text(envelope: Envelope) -> str:
    client = envelope.client
    values = {
        "listener": client.listener,
        "role": client.role,
        "ip": str(client.ip),
        "port": client.port,
        "helo": client.helo,
        "extended": client.extended,
        "tls": client.tls and [client.tls.version, client.tls.cipher, client.tls.bits],
        "login": client.login,
        "size": envelope.size,
        "eight_bit": envelope.eight_bit,
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret,
        "envid": envelope.envid,
    }
    return json.dumps(values)


def _envelope(id: str, reverse_path: str | None, text: str, recipients: Iterable[Recipient]) -> Envelope:
    values = json.loads(text)
    tls = values["tls"]
    client = Client(
        values["listener"],
        values["role"],
        ip_address(values["ip"]),
        values["port"],
        values["helo"],
        values["extended"],
        Tls(*tls) if tls else None,
        values["login"],
    )
    return Envelope(
        id,
        client,
        None if reverse_path is None else _address(reverse_path),
        values["size"],
        values["eight_bit"],
        values["smtputf8"],
        [one.address for one in recipients],
        values["ret"],
        values["envid"],
        {one.address: one.notify for one in recipients if one.notify != Notify()},
    )


def _address(text: str) -> Address:
    """What `str` made of it: a quoted local part may hold an @, a domain may not; the bare postmaster has none."""
    local, at, domain = text.rpartition("@")
    return Address(local, domain) if at else Address(text, "")

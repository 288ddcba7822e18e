"""What a signature is on: the hash of the fields it names, and of the body.

STANDARDS  RFC 6376 §3.5 (l=), §3.7 (the hashes), §5.4.2 (fields that stand there more than once).
TRUSTS     that lines end with CRLF only.
FAILS      never. The header costs its own size a signature and the body its own size a form, however many
           signatures, names in h= and lengths there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import NamedTuple

from relay.authenticate.dkim_signature import Form, MessageSignature
from relay.canonical import chunked, relaxed_body, relaxed_header, simple_body, simple_field
from relay.message import Field, Message

LARGE = 1024 * 1024  # octets of body; hashed in some 5 ms, which a thread then does

_BODY_FORMS = {Form.SIMPLE: simple_body, Form.RELAXED: relaxed_body}


class Wanted(NamedTuple):
    """One hash of the body. length: l=, None for all of it."""

    form: Form
    length: int | None


class BodyHash(NamedTuple):
    """size: of the whole canonical body, in octets."""

    digest: bytes
    size: int


async def body_hashes(message: Message, wanted: Collection[Wanted]) -> dict[Wanted, BodyHash]:
    """Each hash once; that of a large body leaves the event loop."""
    if wanted and len(message.body) > LARGE:
        return await asyncio.to_thread(_body_hashes, message.body, wanted)
    return _body_hashes(message.body, wanted)


def _body_hashes(body: memoryview, wanted: Collection[Wanted]) -> dict[Wanted, BodyHash]:
    found: dict[Wanted, BodyHash] = {}
    for form in {want.form for want in wanted}:
        hashed = {want: sha256() for want in wanted if want.form is form}
        size = 0
        for piece in _BODY_FORMS[form](chunked(body)):
            for want, digest in hashed.items():
                if want.length is None:
                    digest.update(piece)
                elif size < want.length:
                    digest.update(piece[: want.length - size])
            size += len(piece)
        found |= {want: BodyHash(digest.digest(), size) for want, digest in hashed.items()}
    return found


class Header:
    """The fields of one message, for the hashes of its signatures."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._named: dict[bytes, list[Field]] = {}
        for field in fields:
            self._named.setdefault(field.name, []).append(field)

    def digest(self, signature: MessageSignature) -> bytes:
        """SHA-256 over the fields of h= and the signature field itself."""
        chosen: list[Field] = []
        taken: dict[bytes, int] = {}
        for name in signature.names:
            if fields := self._named.get(name):
                taken[name] = number = taken.get(name, 0) + 1
                if number <= len(fields):
                    chosen.append(fields[-number])  # RFC 6376 §5.4.2: from the bottom up
        name, raw = signature.field
        chosen.append(Field(name, without_value(raw)))
        hashed = sha256()
        if signature.header_form is Form.RELAXED:
            hashed.update(relaxed_header(chosen)[:-2])
        else:
            hashed.update(b"\r\n".join([simple_field(field.raw) for field in chosen]))
        return hashed.digest()


def without_value(raw: bytes) -> bytes:
    """A signature field with the value of its b= taken out, and the white space around it (RFC 6376 §3.7)."""
    name, _, value = raw.partition(b":")
    specs = value.split(b";")
    for index, spec in enumerate(specs):
        tag, equals, _ = spec.partition(b"=")
        if equals and tag.strip() == b"b":
            specs[index] = tag + equals
    return name + b":" + b";".join(specs)

"""The same message again, from a client that vanished behind its final dot before it heard our reply.

It cannot know whether we took the message, so it must send it again (RFC 1047). We know: it hears what
became of the first, and no second copy is made. Only then. Two identical alerts whose clients heard their
replies are two mails, and so is all that does not carry a Message-ID and a Date of the client's own.

TRUSTS     nothing: the whole message as it came is compared, with its client, reverse-path and recipients.
FAILS      towards a second copy: what was forgotten, or is not known yet, is taken as new.
"""

from __future__ import annotations

import asyncio
import hashlib

from relay.clock import Clock
from relay.envelope import Envelope
from relay.kept import Kept
from relay.message import Message
from relay.reply import Reply
from relay.telling import Telling

MOST = 10_000  # replies kept

_Key = tuple[str, str, tuple[str, ...], bytes]


class Duplicates:
    """keep: seconds that a reply which nobody heard is remembered. telling: to other workers."""

    def __init__(self, clock: Clock, keep: float, telling: Telling | None = None) -> None:
        self._unheard: Kept[_Key, Reply] = Kept(clock, keep, MOST, telling, "unheard")

    async def known(self, envelope: Envelope, message: Message, content: bytes | bytearray) -> Reply | None:
        """What became of this very message, if its client did not hear it; it is told once.

        message: `content`, parsed, before anything was changed.
        """
        if not len(self._unheard) or not _is_unique(message):
            return None  # nearly always, and then nothing is hashed
        return self._unheard.pop(await _key(envelope, content))

    async def unheard(self, envelope: Envelope, content: bytes | bytearray, reply: Reply) -> None:
        """`reply` is final, and its client had gone. What is temporary may be tried again, and is not kept."""
        if not reply.is_temporary:
            self._unheard.put(await _key(envelope, content), reply)


def _is_unique(message: Message) -> bool:
    """The client gave it a name and a time: another mail with the same text would have others."""
    names = {field.name for field in message.fields}
    return b"message-id" in names and b"date" in names


async def _key(envelope: Envelope, content: bytes | bytearray) -> _Key:
    client = envelope.client
    # Off the loop: 25 MiB take some 20 ms.
    digest = await asyncio.to_thread(lambda: hashlib.sha256(content).digest())
    recipients = tuple(sorted(recipient.key for recipient in envelope.recipients))
    return client.login or client.address, str(envelope.reverse_path or ""), recipients, digest

"""What is done with a message of our own clients, and with captured mail as it would be with theirs.

The author is checked, what is missing is added, senders are rewritten, and signing comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.author import parse_author
from relay.clock import Clock
from relay.config.models import Config, Role
from relay.decide.permission import refuse_author
from relay.edit import headers
from relay.edit.rewrite import masquerade
from relay.edit.sign import Signer
from relay.envelope import Envelope
from relay.errors import CannotSign, MalformedAddress
from relay.fact import Record
from relay.message import Message
from relay.reply import BAD_FROM, NO_KEY, Reply


class Submission:
    def __init__(self, config: Config, signer: Signer, clock: Clock, record: Record) -> None:
        self._config, self._signer, self._clock, self._record = config, signer, clock, record

    async def prepare(
        self, envelope: Envelope, message: Message, senders: Sequence[str]
    ) -> tuple[Envelope, Message] | Reply:
        """The envelope and the message as they leave, or the refusal. senders: what the client may send as."""
        config = self._config
        try:
            author = parse_author(message)
        except MalformedAddress:
            author = None
        if config.listener[envelope.client.listener].role is Role.SUBMISSION:
            if author is None:
                return BAD_FROM
            if refusal := refuse_author(author, senders):
                return refusal
            message = headers.complete(message, config.hostname, self._clock.time(), envelope.id)
            envelope, message, author = masquerade(config.masquerade, envelope, message, author, self._record)
        try:
            return envelope, await self._signer.sign(message, author, envelope.id)
        except CannotSign:
            return NO_KEY

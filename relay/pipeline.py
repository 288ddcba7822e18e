"""The way of a message, on one screen: `sender` at MAIL, `recipient` at RCPT, `receive` at the final dot.

Every step gathers facts, asks a pure function, and acts on its answer. 250 goes back only when the
next hop has said 250 (promise 1); a bug in here is the session's 451 (promise 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from relay.address import Address
from relay.author import parse_author
from relay.capabilities import EVERYTHING, Capabilities, common
from relay.clock import Clock
from relay.config.models import Config, Role
from relay.decide.permission import refuse_author, refuse_recipient, refuse_sender
from relay.edit import headers, trace
from relay.edit.sign import Signer
from relay.envelope import Envelope
from relay.errors import CannotSign, MalformedAddress, MalformedMessage
from relay.fact import Fact, Record
from relay.forward.remembered import Remembered
from relay.forward.route import choose, reachable
from relay.message import Message
from relay.outcome import NextHop, disagree, one_reply
from relay.reply import (
    BAD_FROM,
    NO_KEY,
    NO_ROUTE,
    RECIPIENT_OK,
    SENDER_OK,
    SEPARATE_TRANSACTION,
    TOO_MANY_HOPS,
    Reply,
    malformed,
)


class Pipeline:
    """hops: by name. inbox: where `capture` mail goes. senders: what a login may send as; None without logins.

    remembered: outlives the pipeline, which a reload replaces.
    """

    def __init__(
        self,
        config: Config,
        hops: Mapping[str, NextHop],
        inbox: NextHop,
        signer: Signer,
        senders: Callable[[str], Sequence[str]] | None,
        remembered: Remembered,
        clock: Clock,
        record: Record,
    ) -> None:
        self._config, self._hops, self._inbox, self._signer = config, hops, inbox, signer
        self._senders, self._remembered, self._clock, self._record = senders, remembered, clock, record

    def capabilities(self, listener: str) -> Capabilities:
        if self._config.listener[listener].role is Role.CAPTURE:
            return EVERYTHING
        return common(self._hops[name].capabilities for name in reachable(self._config.route, listener))

    async def sender(self, envelope: Envelope) -> Reply:
        listener = self._config.listener[envelope.client.listener]
        senders, can_log_in = self._senders_of(envelope), self._senders is not None
        refusal = refuse_sender(listener, envelope.client, envelope.reverse_path, senders, can_log_in=can_log_in)
        return refusal or SENDER_OK

    async def recipient(self, envelope: Envelope, recipient: Address) -> Reply:
        listener = self._config.listener[envelope.client.listener]
        if refusal := refuse_recipient(listener, recipient) or self._remembered.take(envelope, recipient):
            return refusal
        hop = self._hop(envelope, recipient)
        if hop is None:
            return NO_ROUTE
        # One transaction, one next hop: its answer is the client's (promise 2).
        if envelope.recipients and hop is not self._hop(envelope, envelope.recipients[0]):
            return SEPARATE_TRANSACTION
        return RECIPIENT_OK

    async def receive(self, envelope: Envelope, content: bytearray) -> Reply:
        began = self._clock.monotonic()
        reply = await self._receive(envelope, content, began + self._config.timeout.client_patience)
        values = {
            "listener": envelope.client.listener,
            "from": str(envelope.reverse_path or "<>"),
            "to": [str(recipient) for recipient in envelope.recipients],
            "size": len(content),
            "reply": str(reply),
            "elapsed_ms": round((self._clock.monotonic() - began) * 1000),
        }
        self._record(Fact("pipeline.answered", envelope.id, values, "info" if reply.is_positive else "warning"))
        return reply

    async def _receive(self, envelope: Envelope, content: bytearray, until: float) -> Reply:
        config, role, now = self._config, self._config.listener[envelope.client.listener].role, self._clock.time()
        try:
            message = headers.clean(Message.parse(content), config.hostname)
        except MalformedMessage as error:
            return malformed(str(error))
        if trace.hops(message) >= config.limit.received:
            return TOO_MANY_HOPS
        if trace.own_hops(message, config.hostname) >= config.limit.received_own:
            return TOO_MANY_HOPS
        if role is not Role.GATEWAY:
            try:
                author = parse_author(message)
            except MalformedAddress:
                author = None
            if role is Role.SUBMISSION:
                if author is None:
                    return BAD_FROM
                if refusal := refuse_author(author, self._senders_of(envelope)):
                    return refusal
                message = headers.complete(message, config.hostname, now, envelope.id)
            try:
                message = await self._signer.sign(message, author, envelope.id)
            except CannotSign:
                return NO_KEY
        recipients = [self._mailbox(envelope, recipient) for recipient in envelope.recipients]
        hop = self._hop(envelope, envelope.recipients[0])
        if hop is None:  # recipient() saw to it that there is one
            return NO_ROUTE
        message = message.prepend(trace.received_field(envelope, config.hostname, now))
        outcomes = await hop.deliver(envelope, message, recipients, until)
        if disagree(outcomes):
            self._remembered.keep(envelope, outcomes)
        return one_reply(envelope.id, outcomes)

    def _hop(self, envelope: Envelope, recipient: Address) -> NextHop | None:
        if self._config.listener[envelope.client.listener].role is Role.CAPTURE:
            return self._inbox
        name = choose(self._config.route, envelope, self._mailbox(envelope, recipient))
        return self._hops[name] if name else None

    def _mailbox(self, envelope: Envelope, recipient: Address) -> Address:
        """The recipient itself; for the bare Postmaster (RFC 5321 §4.5.1) the address configured for it."""
        if recipient.domain:
            return recipient
        local, _, domain = (self._config.postmaster or "").rpartition("@")
        if domain:
            return Address(local, domain)
        domains = self._config.listener[envelope.client.listener].domains
        return Address(recipient.local, domains[0] if domains else self._config.hostname)

    def _senders_of(self, envelope: Envelope) -> Sequence[str]:
        """What the client may send as: a login's own senders, else those of its network."""
        if envelope.client.login is not None and self._senders is not None:
            return self._senders(envelope.client.login)
        return self._config.listener[envelope.client.listener].senders

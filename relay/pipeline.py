"""The way of a message, on one screen: `sender` at MAIL, `recipient` at RCPT, `receive` at the final dot.

Every step gathers facts, asks a pure function, and acts on its answer. 250 goes back only when the
next hop has said 250 (promise 1); a bug in here is the session's 451 (promise 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from relay import reply as replies
from relay.address import Address
from relay.capabilities import EVERYTHING, Capabilities, common
from relay.clock import Clock
from relay.config.models import Config, Role
from relay.decide.permission import refuse_recipient, refuse_sender
from relay.decide.rate import Rates
from relay.decide.recipients import Recipients, is_postmaster, postmaster_at, refuse_unknown
from relay.decide.verification import Verification
from relay.edit import headers, trace
from relay.envelope import Envelope
from relay.errors import MalformedMessage
from relay.fact import Fact, Record
from relay.forward.remembered import Remembered
from relay.forward.route import choose, reachable
from relay.gateway import Gateway
from relay.message import Message
from relay.outcome import NextHop, disagree, one_reply
from relay.reply import Reply, malformed
from relay.submission import Submission


class Pipeline:
    """hops: by name. inbox: where `capture` mail goes. senders: what a login may send as; None without logins.

    recipients: by listener, where there is a file of them. remembered, rates and verification outlive the
    pipeline, which a reload replaces.
    """

    def __init__(
        self,
        config: Config,
        hops: Mapping[str, NextHop],
        inbox: NextHop,
        submission: Submission,
        gateway: Gateway,
        senders: Callable[[str], Sequence[str]] | None,
        recipients: Mapping[str, Recipients],
        remembered: Remembered,
        rates: Rates,
        verification: Verification,
        clock: Clock,
        record: Record,
    ) -> None:
        self._config, self._hops, self._senders = config, {"": inbox, **hops}, senders
        self._submission, self._gateway = submission, gateway
        self._recipients, self._remembered, self._rates = recipients, remembered, rates
        self._verification, self._clock, self._record = verification, clock, record

    def capabilities(self, listener: str) -> Capabilities:
        if self._config.listener[listener].role is Role.CAPTURE:
            return EVERYTHING
        hops, quarantine = reachable(self._config.route, listener), self._config.policy.quarantine_hop
        if quarantine is not None and self._config.listener[listener].role is Role.GATEWAY:
            hops.add(quarantine)
        return common(self._hops[name].capabilities for name in hops)

    async def sender(self, envelope: Envelope) -> Reply:
        listener = self._config.listener[envelope.client.listener]
        senders, can_log_in = self._senders_of(envelope), self._senders is not None
        refusal = refuse_sender(listener, envelope.client, envelope.reverse_path, senders, can_log_in=can_log_in)
        return refusal or self._rates.message(self._config, envelope) or replies.SENDER_OK

    async def recipient(self, envelope: Envelope, recipient: Address) -> Reply:
        config, listener = self._config, self._config.listener[envelope.client.listener]
        known = self._recipients.get(envelope.client.listener)
        refusal = refuse_recipient(listener, recipient) or refuse_unknown(known, recipient, config.postmaster)
        if refusal := refusal or self._remembered.take(envelope, self._mailbox(envelope, recipient)):
            return refusal
        hop = self._hop(envelope, recipient)
        if hop is None:
            return replies.NO_ROUTE
        # One transaction, one next hop: its answer is the client's (promise 2).
        if envelope.recipients and hop != self._hop(envelope, envelope.recipients[0]):
            return replies.SEPARATE_TRANSACTION
        refusal = self._rates.recipient(config, envelope)
        if refusal is None and listener.verify_recipients and not is_postmaster(recipient, config.postmaster):
            ask, seconds = self._hops[hop].ask, config.timeout.checks
            refusal = await self._verification.refuse(config.verify, hop, ask, envelope, recipient, seconds)
        if refusal is None and listener.role is Role.GATEWAY:
            self._gateway.begin(envelope)
        return refusal or replies.RECIPIENT_OK

    def forget(self, envelope: Envelope) -> None:
        self._gateway.forget(envelope)

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
        config, role = self._config, self._config.listener[envelope.client.listener].role
        try:
            came = Message.parse(content)
        except MalformedMessage as error:
            return malformed(str(error))
        if trace.is_loop(came, config.hostname, config.limit):
            return replies.TOO_MANY_HOPS
        recipients = [self._mailbox(envelope, recipient) for recipient in envelope.recipients]
        hop = self._hop(envelope, envelope.recipients[0])
        sent, message = envelope, headers.clean(came, config.hostname)
        fields: tuple[bytes, ...] = ()
        if role is Role.GATEWAY:
            judged = await self._gateway.judge(envelope, came, message, until)
            if judged.refusal is not None:
                return judged.refusal
            hop, fields = judged.hop or hop, judged.fields
        else:
            prepared = await self._submission.prepare(envelope, message, self._senders_of(envelope))
            if isinstance(prepared, Reply):
                return prepared
            sent, message = prepared
        if hop is None:  # recipient() saw to it that there is one
            return replies.NO_ROUTE
        message = message.prepend(*fields, trace.received_field(envelope, config.hostname, self._clock.time()))
        settled = await self._remembered.settled(envelope, recipients, content)
        rest = [recipient for recipient in recipients if recipient not in settled]
        outcomes = (*settled.values(), *(await self._hops[hop].deliver(sent, message, rest, until) if rest else ()))
        if settled:
            self._record(Fact("pipeline.settled", envelope.id, {"to": [str(recipient) for recipient in settled]}))
        if disagree(outcomes):
            await self._remembered.keep(envelope, outcomes, content)
        return one_reply(envelope.id, outcomes)

    def _hop(self, envelope: Envelope, recipient: Address) -> str | None:
        """The name of the hop, "" for the inbox that capture mail goes to; None when no route takes it."""
        if self._config.listener[envelope.client.listener].role is Role.CAPTURE:
            return ""
        return choose(self._config.route, envelope, self._mailbox(envelope, recipient))

    def _mailbox(self, envelope: Envelope, recipient: Address) -> Address:
        """The recipient itself; for the bare Postmaster (RFC 5321 §4.5.1) the address configured for it."""
        domains = self._config.listener[envelope.client.listener].domains or (self._config.hostname,)
        return recipient if recipient.domain else postmaster_at(self._config.postmaster, domains[0])

    def _senders_of(self, envelope: Envelope) -> Sequence[str]:
        """What the client may send as: a login's own senders, else those of its network."""
        if envelope.client.login is not None and self._senders is not None:
            return self._senders(envelope.client.login)
        return self._config.listener[envelope.client.listener].senders

"""The way of a message, on one screen: `sender` at MAIL, `recipient` at RCPT, `receive` at the final dot.

Every step gathers facts, asks a pure function, and acts on its answer. 250 goes back only when the next
hop has said 250 or the queue has synced it (promise 1); a bug in here is the session's 451 (promise 3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from relay import reply as replies
from relay.address import Address
from relay.capabilities import Capabilities, common
from relay.clock import Clock
from relay.config.models import Config, Role
from relay.decide.duplicates import Duplicates
from relay.decide.permission import refuse_recipient, refuse_sender
from relay.decide.rate import Rates
from relay.decide.recipients import Recipients, is_postmaster, refuse_unknown
from relay.decide.verification import Verification
from relay.edit import headers, trace
from relay.envelope import Envelope
from relay.errors import MalformedMessage
from relay.fact import Fact, Record
from relay.forward.remembered import Remembered
from relay.forward.route import Routed, find, reachable
from relay.gateway import Gateway, Judged
from relay.handover import Accepted, Handover
from relay.message import Message
from relay.outcome import NextHop
from relay.reply import Reply, malformed
from relay.submission import Submission

_UNJUDGED = Judged()  # what clients of our own send


class Pipeline:
    """hops: by name, and "" for the inbox. senders: what a login may send as; None without logins.

    recipients: by listener, where there is a file of them. What outlives the pipeline, which a reload replaces:
    remembered, duplicates, rates, verification, and behind `handover` the queue.
    """

    def __init__(
        self,
        config: Config,
        hops: Mapping[str, NextHop],
        submission: Submission,
        gateway: Gateway,
        handover: Handover,
        senders: Callable[[str], Sequence[str]] | None,
        recipients: Mapping[str, Recipients],
        remembered: Remembered,
        duplicates: Duplicates,
        rates: Rates,
        verification: Verification,
        clock: Clock,
        record: Record,
    ) -> None:
        self._config, self._hops, self._senders, self._recipients = config, hops, senders, recipients
        self._reachable = reachable(config)
        self._submission, self._gateway, self._handover = submission, gateway, handover
        self._remembered, self._duplicates, self._rates = remembered, duplicates, rates
        self._verification, self._clock, self._record = verification, clock, record

    def capabilities(self, listener: str) -> Capabilities:
        return common(self._hops[name].capabilities for name in self._reachable[listener])

    def sender(self, envelope: Envelope) -> Reply:
        listener = self._config.listener[envelope.client.listener]
        senders, can_log_in = self._senders_of(envelope), self._senders is not None
        refusal = refuse_sender(listener, envelope.client, envelope.reverse_path, senders, can_log_in=can_log_in)
        return refusal or self._rates.message(self._config, envelope) or replies.SENDER_OK

    def recipient(self, envelope: Envelope, recipient: Address) -> Reply | Awaitable[Reply]:
        config, listener = self._config, self._config.listener[envelope.client.listener]
        if refusal := refuse_recipient(listener, recipient):
            return refusal
        known, routed = self._recipients.get(envelope.client.listener), find(config, envelope, recipient)
        if routed is None:
            return refuse_unknown(known, recipient, config.postmaster) or replies.NO_ROUTE
        if not routed.is_role and (refusal := refuse_unknown(known, recipient, config.postmaster)):
            return refusal
        if refusal := self._remembered.take(envelope, routed.mailbox) or self._rates.recipient(config, envelope):
            return refusal
        if listener.verify_recipients and not routed.is_role and not is_postmaster(recipient, config.postmaster):
            return self._verified(envelope, recipient, routed)
        return self._taken(envelope, routed)

    async def _verified(self, envelope: Envelope, recipient: Address, routed: Routed) -> Reply:
        hop, seconds = routed.route.hop, self._config.timeout.checks
        given = self._config.verify, hop, self._hops[hop].ask, envelope, recipient, seconds
        return await self._verification.refuse(*given) or self._taken(envelope, routed)

    def _taken(self, envelope: Envelope, routed: Routed) -> Reply:
        if self._config.listener[envelope.client.listener].role is Role.GATEWAY:
            self._gateway.begin(envelope)
        envelope.routes[routed.mailbox] = routed.route
        return replies.RECIPIENT_OK

    def forget(self, envelope: Envelope) -> None:
        self._gateway.forget(envelope)

    async def unheard(self, envelope: Envelope, content: bytearray, reply: Reply) -> None:
        if self._config.duplicates.guard:
            await self._duplicates.unheard(envelope, content, reply)

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
        if known := await self._duplicates.known(envelope, came, content):
            self._record(Fact("pipeline.duplicate", envelope.id, {"reply": str(known)}))
            return known
        if trace.is_loop(came, config.hostname, config.limit):
            return replies.TOO_MANY_HOPS
        sent, message, judged = envelope, headers.clean(came, config.hostname), _UNJUDGED
        if role is Role.GATEWAY:
            judged = await self._gateway.judge(envelope, came, message, until)
            if judged.refusal is not None:
                return judged.refusal
        else:
            prepared = await self._submission.prepare(envelope, message, self._senders_of(envelope))
            if isinstance(prepared, Reply):
                return prepared
            sent, message = prepared
        routes = envelope.routes
        if judged.hop is not None:
            routes = {mailbox: route.via(judged.hop) for mailbox, route in routes.items()}
        received = trace.received_field(envelope, config.hostname, self._clock.time())
        message = message.prepend(*judged.fields, received)
        is_reportable = judged.is_reportable and sent.reverse_path is not None
        return await self._handover.take(Accepted(envelope, sent, message, routes, content, is_reportable, until))

    def _senders_of(self, envelope: Envelope) -> Sequence[str]:
        """What the client may send as: a login's own senders, else those of its network."""
        if envelope.client.login is not None and self._senders is not None:
            return self._senders(envelope.client.login)
        return self._config.listener[envelope.client.listener].senders

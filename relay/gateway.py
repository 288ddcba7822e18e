"""What a gateway does with a message from the world: checks, a decision, the fields that say so.

Gather in async (`authenticate`), decide in sync (`decide`), act by the pipeline. SPF begins at the first
recipient that is taken, so that its DNS goes beside the upload; a dictionary attack costs no DNS.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from relay.authenticate.check import EarlySpf, authenticate
from relay.clock import Clock
from relay.config.models import Config
from relay.config.policy import Action
from relay.decide.backscatter import may_report
from relay.decide.policy import Decision, decide, difference, is_skipped
from relay.edit.headers import MARK, QUARANTINE, folded
from relay.edit.key import SigningKey
from relay.edit.results import RESULTS, results_value
from relay.edit.seal import seal_fields
from relay.envelope import Envelope
from relay.fact import Fact, Record
from relay.message import Message
from relay.reply import Reply
from relay.report.explanation import brief, decided, kept
from relay.report.journal import CHECKED, EXPLAINED
from relay.resolver import Resolver
from relay.verdict import Verdicts

_WHY = {Action.QUARANTINE: QUARANTINE, Action.MARK: MARK}  # the field that says why


@dataclass(frozen=True, slots=True)
class Judged:
    """refusal: the reply, if it is not to be delivered. fields: go on top of it. hop: another than its route's.

    is_reportable: its sender may be sent reports about it.
    """

    refusal: Reply | None = None
    fields: tuple[bytes, ...] = ()
    hop: str | None = None
    is_reportable: bool = True


class Gateway:
    def __init__(
        self, config: Config, resolver: Resolver, sealing: SigningKey | None, clock: Clock, record: Record
    ) -> None:
        """sealing: the key of ARC seals, None for none."""
        self._config, self._resolver, self._sealing = config, resolver, sealing
        self._clock, self._record = clock, record
        self._early: dict[str, EarlySpf] = {}
        shadow = config.shadow.trusted_sealers if config.shadow else ()
        self._trusted_sealers = frozenset((*config.policy.trusted_sealers, *shadow))
        self._is_skipped = lru_cache(1024)(lambda address: is_skipped(ip_address(address), config.policy))
        # What is decided of a client whose mail is not checked is always the same.
        self._exempt = Judged(fields=(RESULTS % results_value(None, config.hostname),))
        self._exemption = decided(decide("", None, config.policy))

    def begin(self, envelope: Envelope) -> None:
        """A recipient was taken: SPF may begin."""
        client = envelope.client
        if not self._is_skipped(client.address) and envelope.id not in self._early:
            seconds = self._config.timeout.checks
            self._early[envelope.id] = EarlySpf(
                client.ip, client.helo, envelope.reverse_path, self._resolver, seconds=seconds
            )

    def forget(self, envelope: Envelope) -> None:
        """The transaction is over; SPF that nobody waits for ends."""
        if early := self._early.pop(envelope.id, None):
            early.cancel()

    async def judge(self, envelope: Envelope, came: Message, leaves: Message, until: float) -> Judged:
        """came: the message before anything was removed, as its signers saw it. until: monotonic."""
        policy, address = self._config.policy, envelope.client.address
        if self._is_skipped(address):
            self._record(Fact("decide.decided", envelope.id, {**self._exemption, "ip": address}))
            return self._exempt
        verdicts = await self._check(envelope, came, until)
        decision = decide(envelope.id, verdicts, policy)
        self._tell(envelope, verdicts, decision)
        if decision.reply is not None and not decision.monitored:
            return Judged(decision.reply)
        path = str(envelope.reverse_path or "")
        results = results_value(verdicts, self._config.hostname, mail_from=path, override=decision.override)
        named = _WHY.get(decision.applied)
        fields = [RESULTS % results, *([folded(named, *decision.reason.split())] if named else [])]
        if self._sealing:
            given = leaves, self._sealing, verdicts.arc.result, results, self._clock.time()
            fields += await asyncio.to_thread(seal_fields, *given)
        hop = policy.quarantine_hop if decision.applied is Action.QUARANTINE else None
        may_hear = may_report(envelope.reverse_path, verdicts, self._config.bounce.unverified)
        return Judged(None, tuple(fields), hop, may_hear)

    async def _check(self, envelope: Envelope, message: Message, until: float) -> Verdicts:
        config, client = self._config, envelope.client
        verdicts = await authenticate(
            message,
            client.ip,
            client.helo,
            envelope.reverse_path,
            self._resolver,
            clock=self._clock,
            trusted_sealers=self._trusted_sealers,
            spf=self._early.pop(envelope.id, None),
            seconds=max(0.0, min(config.timeout.checks, until - self._clock.monotonic())),
            record=self._record,
            id=envelope.id,
        )
        self._record(Fact(EXPLAINED, envelope.id, kept(verdicts), "debug"))
        self._record(Fact(CHECKED, envelope.id, brief(verdicts)))
        return verdicts

    def _tell(self, envelope: Envelope, verdicts: Verdicts, decision: Decision) -> None:
        values = {**decided(decision), "ip": envelope.client.address}
        self._record(Fact("decide.decided", envelope.id, values))
        if self._config.shadow is not None:
            shadow = decide(envelope.id, verdicts, self._config.shadow)
            if changed := difference(decision, shadow):
                values = {"difference": changed, "rule": shadow.rule, "reason": shadow.reason}
                self._record(Fact("decide.shadow", envelope.id, values))

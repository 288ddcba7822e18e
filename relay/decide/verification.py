"""Asks next hops whether they know a recipient, as seldom as can be.

Answers are kept in memory only: after a restart each recipient is asked about once more. However many
sessions want to know about one recipient, there is one question; and no more than `AT_ONCE` for a hop, so
that whoever tries a dictionary on us tries it on `on_trouble`, not on the mailbox server.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable

from relay.address import Address
from relay.clock import Clock
from relay.config.models import Verify
from relay.decide.answers import Answer, Answers, Key, Step, read, refusal, step
from relay.envelope import Envelope
from relay.fact import Fact, Record
from relay.outcome import Outcome
from relay.reply import Reply

AT_ONCE = 5  # questions to one hop

Ask = Callable[[Envelope, Address, float], Awaitable[Outcome]]


class Verification:
    """What next hops know, over all listeners. It outlives a reload; `close` ends the questions under way."""

    def __init__(self, clock: Clock, record: Record) -> None:
        self._clock, self._record = clock, record
        self._answers = Answers()
        self._questions: dict[Key, asyncio.Task[bool | None]] = {}
        self._asking: Counter[str] = Counter()

    async def refuse(
        self, settings: Verify, hop: str, ask: Ask, envelope: Envelope, recipient: Address, seconds: float
    ) -> Reply | None:
        """The refusal of a RCPT command for somebody the hop does not know, or None.

        hop: its name. ask: of `relay.outcome.NextHop`. seconds: that the hop has to answer.
        """
        key = hop, recipient.key
        answer = self._answers.get(key)
        match step(answer, settings, self._clock.monotonic()):
            case Step.USE:
                said: bool | None = answer is not None and answer.is_known
            case Step.REFRESH:
                said = answer is not None and answer.is_known
                self._question(settings, key, ask, envelope, recipient, seconds)
            case Step.ASK:
                question = self._question(settings, key, ask, envelope, recipient, seconds)
                # Shielded: the session that asked first may end, the others still wait for the answer.
                said = await asyncio.shield(question) if question is not None else None
        return refusal(answer, said, settings.on_trouble)

    async def close(self) -> None:
        """End the questions under way."""
        questions = [*self._questions.values()]
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    def _question(
        self, settings: Verify, key: Key, ask: Ask, envelope: Envelope, recipient: Address, seconds: float
    ) -> asyncio.Task[bool | None] | None:
        """The question under way about this recipient, or a new one; None when the hop has enough of them."""
        if key in self._questions:
            return self._questions[key]
        hop = key[0]
        if self._asking[hop] >= AT_ONCE:
            self._tell(envelope, hop, recipient, "busy")
            return None
        self._asking[hop] += 1
        task = asyncio.create_task(self._ask(settings, key, ask, envelope, recipient, seconds))
        self._questions[key] = task
        task.add_done_callback(lambda _: self._answered(key))
        return task

    async def _ask(
        self, settings: Verify, key: Key, ask: Ask, envelope: Envelope, recipient: Address, seconds: float
    ) -> bool | None:
        try:
            outcome = await ask(envelope, recipient, self._clock.monotonic() + seconds)
        except Exception as error:  # a mistake of ours; of a refresh nobody else would hear
            text = "".join(traceback.format_exception(error))
            values = {"error": type(error).__name__, "traceback": text}
            self._record(Fact("decide.trouble", envelope.id, values, "error"))
            return None
        said = read(outcome)
        if said is not None:
            self._answers.keep(key, Answer(said, self._clock.monotonic()), settings.keep)
        result = {True: "known", False: "unknown", None: "unclear"}[said]
        self._tell(envelope, key[0], recipient, result, str(outcome.reply))
        return said

    def _answered(self, key: Key) -> None:
        del self._questions[key]
        self._asking[key[0]] -= 1

    def _tell(self, envelope: Envelope, hop: str, recipient: Address, result: str, reply: str = "") -> None:
        values = {"hop": hop, "to": str(recipient), "result": result, "reply": reply}
        level = "info" if result in ("known", "unknown") else "warning"
        self._record(Fact("decide.verified", envelope.id, values, level))

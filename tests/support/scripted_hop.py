"""A next hop without a network: what it says to each recipient is a function, and what it was sent is on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.address import Address
from relay.capabilities import EVERYTHING, Capabilities
from relay.envelope import Envelope
from relay.message import Message
from relay.outcome import Outcome, Result
from relay.reply import Reply

OK = Reply(250, "0.0", "taken")
LATER = Reply(450, "2.0", "mailbox busy")
NEVER = Reply(550, "1.1", "no such user")
UNREACHABLE = Reply(451, "4.1", "the next hop cannot be reached, try again later")
SILENT = Reply(451, "4.2", "the next hop did not answer in time, try again later")

Answer = Callable[[Envelope, Address], Outcome]


def taken(envelope: Envelope, recipient: Address) -> Outcome:
    return Outcome(recipient, Result.DELIVERED, OK, "next", "mx.example")


def busy(envelope: Envelope, recipient: Address) -> Outcome:
    return Outcome(recipient, Result.TEMPORARY, LATER, "next", "mx.example", f"rcpt: {LATER}")


def refused(envelope: Envelope, recipient: Address) -> Outcome:
    return Outcome(recipient, Result.PERMANENT, NEVER, "next", "mx.example", f"rcpt: {NEVER}")


def unreachable(envelope: Envelope, recipient: Address) -> Outcome:
    return Outcome(recipient, Result.TEMPORARY, UNREACHABLE, "next", "", "connect: refused", True)


def cut(envelope: Envelope, recipient: Address) -> Outcome:
    """After our final dot."""
    return Outcome(recipient, Result.AMBIGUOUS, SILENT, "next", "mx.example", "dot: cut")


@dataclass(frozen=True, slots=True)
class Sent:
    id: str
    recipients: tuple[str, ...]
    content: bytes


class ScriptedHop:
    """open: an attempt waits for it before it ends. dsn: it offers DSN."""

    def __init__(self, answer: Answer = taken, *, dsn: bool = False) -> None:
        self.answer, self.sent, self.open = answer, list[Sent](), asyncio.Event()
        self.active = self.most_active = 0
        self._capabilities = Capabilities(eight_bit=True, smtputf8=True, dsn=dsn) if dsn else EVERYTHING
        self._is_hurried = asyncio.Event()
        self.open.set()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def deliver(
        self,
        envelope: Envelope,
        message: Message,
        recipients: Sequence[Address],
        until: float,
        *,
        each: bool = False,
    ) -> tuple[Outcome, ...]:
        self.sent.append(Sent(envelope.id, tuple(map(str, recipients)), bytes(message)))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(0)
            if not self.open.is_set():
                await self._wait()
        finally:
            self.active -= 1
        if not self.open.is_set():
            cause = "connect: the relay is stopping"
            return tuple(Outcome(one, Result.TEMPORARY, SILENT, "next", "", cause, True) for one in recipients)
        return tuple(self.answer(envelope, one) for one in recipients)

    async def _wait(self) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self.open, self._is_hurried)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def hurry(self) -> None:
        """What waits for `open` ends as interrupted."""
        self._is_hurried.set()

    async def ask(self, envelope: Envelope, recipient: Address, until: float) -> Outcome:
        return taken(envelope, recipient)

    async def probe(self) -> None:
        """There is nothing to find out."""

    async def close(self) -> None: ...

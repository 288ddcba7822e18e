"""A hop of ours towards a `FakeHop`, with short timeouts, and what it records."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from relay.address import Address
from relay.clock import Clock, SystemClock
from relay.config.hop import Hop, HopTls
from relay.config.models import Timeout
from relay.envelope import Client, Envelope
from relay.fact import Fact
from relay.forward.deliver import SmtpHop
from relay.message import Message
from relay.outcome import Outcome

SENDER = Address("ann", "example.org")
ANN, BOB, CAT = Address("ann", "example.com"), Address("bob", "example.com"), Address("cat", "example.com")
CONTENT = b"From: ann@example.org\r\nSubject: a test\r\n\r\nhello\r\n"
PHASES = (
    "connect", "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "data_block", "final_dot", "quit",
)  # fmt: skip
CLIENT = Client("submission", "submission", ip_address("127.0.0.1"), 40000)


class Sending:
    """An SmtpHop and its facts. Keywords that are fields of Timeout or Hop go there."""

    def __init__(
        self,
        port: int,
        *,
        hostname: str = "relay.example.org",
        phase: float = 5.0,
        clock: Clock | None = None,
        **keys: object,
    ) -> None:
        times = dict.fromkeys(PHASES, phase)
        times |= {name: keys.pop(name) for name in [*keys] if name in times and not isinstance(keys[name], str)}
        values = {"host": ("127.0.0.1",), "tls": HopTls.NONE} | keys
        self.clock = clock or SystemClock()
        self.facts: list[Fact] = []
        timeout = Timeout.model_construct(**dict(Timeout()) | times)
        self.hop = SmtpHop("out", Hop(port=port, **values), timeout, hostname, self.clock, self.facts.append)

    async def deliver(
        self,
        *recipients: Address,
        content: bytes = CONTENT,
        within: float = 30.0,
        change: Callable[[Envelope], None] = lambda envelope: None,
        each: bool = False,
    ) -> tuple[Outcome, ...]:
        envelope = Envelope("id0", CLIENT, SENDER, recipients=list(recipients))
        change(envelope)
        message = Message.parse(content)
        return await self.hop.deliver(
            envelope, message, recipients or (ANN,), self.clock.monotonic() + within, each=each
        )

    async def ask(self, recipient: Address = ANN, *, client: Client = CLIENT, within: float = 30.0) -> Outcome:
        envelope = Envelope("id0", client, SENDER)
        return await self.hop.ask(envelope, recipient, self.clock.monotonic() + within)

    async def close(self) -> None:
        await self.hop.close()

    def events(self) -> list[str]:
        return [fact.event for fact in self.facts]

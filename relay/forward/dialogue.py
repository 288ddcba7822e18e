"""Commands and replies on one connection: who waits for what, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable

from relay.clock import Clock
from relay.config.models import Timeout
from relay.forward.connection import Connection
from relay.forward.trouble import Fault, Phase, Trouble, refusal


class Dialogue:
    """until: monotonic; every wait of it ends by then."""

    def __init__(self, connection: Connection, until: float, timeout: Timeout, clock: Clock) -> None:
        self.connection, self.until, self.timeout, self.clock = connection, until, timeout, clock
        self.is_pipelining = "pipelining" in connection.extensions

    def send_ahead(self, *commands: bytes) -> None:
        """Write all of them in one go, where the hop takes that (RFC 2920)."""
        if self.is_pipelining:
            self.connection.send(b"".join(commands), len(commands))

    def ask(self, phase: Phase, command: bytes, seconds: float) -> Awaitable[Trouble | None]:
        """The answer to a command, which is written now unless it went ahead; as `answer` gives it."""
        if not self.is_pipelining:
            self.connection.send(command, 1)
        return self.answer(phase, seconds)

    async def answer(self, phase: Phase, seconds: float) -> Trouble | None:
        """The next reply: None, or the refusal. Raises Trouble when it ends the connection."""
        reply = self.connection.arrived() or await self.connection.reply(phase, seconds, self.until)
        refused = refusal(phase, reply)
        if refused and refused.fault in (Fault.CLOSING, Fault.GARBAGE):
            raise refused
        return refused

    async def end(self) -> None:
        """After a refusal: leave the connection fit for the next message, or closed. Never raises Trouble."""
        connection, seconds = self.connection, self.timeout.quit
        until = min(self.clock.monotonic() + seconds, self.until)
        try:
            while connection.owes:
                if (await connection.reply(Phase.DATA, seconds, until)).code == 354:
                    # The hop waits for content for nobody. A lone dot would be an empty mail to some.
                    connection.abort()
                    return
            connection.send(b"RSET\r\n", 1)
            if (await connection.reply(Phase.MAIL, seconds, until)).code != 250:
                connection.abort()
        except Trouble:
            connection.abort()

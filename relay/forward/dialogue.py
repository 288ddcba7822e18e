"""Commands and replies on one connection: who waits for what, and for how long."""

from __future__ import annotations

from relay.clock import Clock
from relay.config.models import Timeout
from relay.forward.connection import Connection
from relay.forward.replies import HopReply
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

    async def ask(self, phase: Phase, command: bytes, seconds: float) -> Trouble | None:
        """The answer to a command, which is written now unless it went ahead. Returns the refusal, if it is one."""
        if not self.is_pipelining:
            self.connection.send(command, 1)
        return await self.answer(phase, seconds)

    async def answer(self, phase: Phase, seconds: float) -> Trouble | None:
        """The next reply: None, or the refusal. Raises Trouble when it ends the connection."""
        refused = refusal(phase, await self.reply(phase, seconds))
        if refused and refused.fault in (Fault.CLOSING, Fault.GARBAGE):
            raise refused
        return refused

    async def reply(self, phase: Phase, seconds: float) -> HopReply:
        return await self.connection.reply(phase, self.deadline(seconds))

    async def end(self) -> None:
        """After a refusal: leave the connection fit for the next message, or closed. Never raises Trouble."""
        connection, deadline = self.connection, self.deadline(self.timeout.quit)
        try:
            while connection.owes:
                if (await connection.reply(Phase.DATA, deadline)).code == 354:
                    # The hop waits for content for nobody. A lone dot would be an empty mail to some.
                    connection.abort()
                    return
            connection.send(b"RSET\r\n", 1)
            if (await connection.reply(Phase.MAIL, deadline)).code != 250:
                connection.abort()
        except Trouble:
            connection.abort()

    def deadline(self, seconds: float) -> float:
        return min(self.clock.monotonic() + seconds, self.until)

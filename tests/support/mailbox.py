"""A mailbox server that is not ours (stock aiosmtpd), in the test's own loop: what arrived, and scripted refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class Mailbox:
    """recipients: address → reply to RCPT. final: reply to the final dot. hold: set to let final replies out."""

    recipients: dict[str, str] = field(default_factory=dict)
    final: str = "250 2.0.0 stored"
    mails: list[Envelope] = field(default_factory=list)
    hold: asyncio.Event | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.recipients.get(address, "250 2.1.5 fine")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.final.startswith("250"):
            self.mails.append(envelope)
        self.arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        return self.final

    @property
    def contents(self) -> list[bytes]:
        return [bytes(mail.original_content or b"") for mail in self.mails]


@asynccontextmanager
async def mailbox(*, smtputf8: bool = True, size: int = 2**25) -> AsyncIterator[Mailbox]:
    loop, box, sessions = asyncio.get_running_loop(), Mailbox(), list[SMTP]()

    def session() -> SMTP:
        made = SMTP(box, hostname="mailbox.test", loop=loop, enable_SMTPUTF8=smtputf8, data_size_limit=size)
        sessions.append(made)
        return made

    server = await loop.create_server(session, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        for one in sessions:
            if one.transport is not None:
                one.transport.close()
        tasks = [one._handler_coroutine for one in sessions if one._handler_coroutine is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

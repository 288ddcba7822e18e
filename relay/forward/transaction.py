"""One mail transaction on an open connection: exact bytes out, a verdict a recipient back.

STANDARDS  RFC 5321 §3.3, §4.1.1.2–4, §4.5.2 (transparency), §4.5.3.2 (timeouts), RFC 2920 (PIPELINING),
           RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8).
TRUSTS     that addresses were parsed by `relay.address` and that content has CRLF line ends only
           (`accept/wire.py`): neither is looked at again here.
FAILS      Trouble, after which the connection must not be used again. A refusal is a Verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from relay.address import Address
from relay.clock import Clock
from relay.config.models import Timeout
from relay.envelope import Envelope
from relay.forward.connection import Connection
from relay.forward.replies import HopReply
from relay.forward.trouble import Fault, Phase, Trouble, Verdict, judge, refusal
from relay.message import CHUNK, Message
from relay.outcome import Result
from relay.reply import DISAGREE, EIGHT_BIT_HOP, TOO_BIG_HOP, UTF8_HOP, from_hop

_DATA = b"DATA\r\n"


class Transaction:
    """until: monotonic; our final dot is not written after it, and every wait before it ends by then."""

    def __init__(
        self,
        connection: Connection,
        envelope: Envelope,
        message: Message,
        recipients: Sequence[Address],
        until: float,
        timeout: Timeout,
        clock: Clock,
    ) -> None:
        self._connection, self._message, self._recipients = connection, message, recipients
        self._envelope = envelope
        self._until, self._timeout, self._clock = until, timeout, clock
        self._pipelining = "pipelining" in connection.extensions

    async def run(self) -> tuple[Verdict, ...]:
        """A verdict a recipient, in their order. Raises Trouble."""
        parameters = mail_parameters(self._connection.extensions, self._envelope, self._message, self._recipients)
        if isinstance(parameters, Verdict):
            return self._for_all(parameters)
        mail = b"MAIL FROM:<%s>%s\r\n" % (str(self._envelope.reverse_path or "").encode(), parameters)
        rcpts = [b"RCPT TO:<%s>\r\n" % str(recipient).encode() for recipient in self._recipients]
        # A pipelined DATA commits us to content before we know who takes it. With a single recipient
        # that is harmless: nobody takes it, nothing is sent (`_end`).
        early_data = self._pipelining and len(rcpts) == 1
        if self._pipelining:
            commands = [mail, *rcpts, _DATA] if early_data else [mail, *rcpts]
            self._connection.send(b"".join(commands), len(commands))

        if refused := await self._ask(Phase.MAIL, mail, self._timeout.mail):
            return await self._end(self._for_all(judge(refused)))
        answers = [await self._ask(Phase.RCPT, rcpt, self._timeout.rcpt) for rcpt in rcpts]
        if any(answers):
            return await self._end(tuple(judge(answer) if answer else _NOT_SENT for answer in answers))
        if not early_data:
            self._connection.send(_DATA, 1)
        if refused := await self._answer(Phase.DATA, self._timeout.data):
            return await self._end(self._for_all(judge(refused)))
        await self._send_content()
        return self._for_all(await self._outcome())

    async def _ask(self, phase: Phase, command: bytes, seconds: float) -> Trouble | None:
        """Write the command, unless it went out with the others. Returns the refusal, if it is one."""
        if not self._pipelining:
            self._connection.send(command, 1)
        return await self._answer(phase, seconds)

    async def _answer(self, phase: Phase, seconds: float) -> Trouble | None:
        refused = refusal(phase, await self._reply(phase, seconds))
        if refused and refused.fault in (Fault.CLOSING, Fault.GARBAGE):
            raise refused
        return refused

    async def _reply(self, phase: Phase, seconds: float) -> HopReply:
        return await self._connection.reply(phase, min(self._clock.monotonic() + seconds, self._until))

    async def _send_content(self) -> None:
        """The content and the final dot, in as few writes as their size allows."""
        held: list[bytes] = []
        size = 0
        for piece in dot_stuffed(self._message.chunks()):
            if size >= CHUNK:
                await self._drain()
                self._connection.send(b"".join(held), 0)
                held, size = [], 0
            held.append(piece)
            size += len(piece)
        await self._drain()
        if self._clock.monotonic() >= self._until:
            raise Trouble(Phase.CONTENT, Fault.SILENT, "no time left for the final dot")
        self._connection.send(b"".join(held), 1)

    async def _drain(self) -> None:
        seconds = self._timeout.data_block
        await self._connection.drain(Phase.CONTENT, min(self._clock.monotonic() + seconds, self._until))

    async def _outcome(self) -> Verdict:
        # RFC 5321 §4.5.3.2.6: whatever our client does meanwhile. To leave early makes duplicates.
        reply = await self._connection.reply(Phase.DOT, self._clock.monotonic() + self._timeout.final_dot)
        self._connection.messages += 1
        if refused := refusal(Phase.DOT, reply):
            if refused.fault in (Fault.CLOSING, Fault.GARBAGE):
                raise refused
            return judge(refused)
        return Verdict(Result.DELIVERED, from_hop(*reply))

    async def _end(self, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
        """After a refusal: leave the connection fit for the next message, or closed. The verdicts stand."""
        connection = self._connection
        deadline = min(self._clock.monotonic() + self._timeout.quit, self._until)
        try:
            while connection.owes:
                if (await connection.reply(Phase.DATA, deadline)).code == 354:
                    # The hop waits for content for nobody. A lone dot would be an empty mail to some.
                    connection.abort()
                    return verdicts
            connection.send(b"RSET\r\n", 1)
            if (await connection.reply(Phase.MAIL, deadline)).code != 250:
                connection.abort()
        except Trouble:
            connection.abort()
        return verdicts

    def _for_all(self, verdict: Verdict) -> tuple[Verdict, ...]:
        return (verdict,) * len(self._recipients)


# An accepted recipient of a message that others refuse.
_NOT_SENT = Verdict(Result.TEMPORARY, DISAGREE, "rcpt: accepted, but not all were")


def mail_parameters(
    extensions: Mapping[str, str], envelope: Envelope, message: Message, recipients: Sequence[Address]
) -> bytes | Verdict:
    """What goes behind `MAIL FROM:<…>`, or the verdict if this hop cannot take this message."""
    parameters = b""
    if "size" in extensions:
        size = message.size
        limit = extensions["size"].strip()
        # RFC 1870 §3: without a number, or with 0, there is no fixed maximum.
        if limit.isdecimal() and 0 < int(limit) < size:
            return Verdict(Result.PERMANENT, TOO_BIG_HOP, f"mail: {size} octets, the hop takes {limit}")
        parameters += b" SIZE=%d" % size
    addresses = (envelope.reverse_path, *recipients)
    utf8 = any(address is not None and not address.is_ascii for address in addresses)
    if utf8 or (envelope.smtputf8 and not message.header.isascii()):
        if "smtputf8" not in extensions:
            return Verdict(Result.PERMANENT, UTF8_HOP, "mail: the hop does not offer SMTPUTF8")
        parameters += b" SMTPUTF8"
    if "8bitmime" in extensions:
        if envelope.eight_bit or not _is_ascii(message):
            parameters += b" BODY=8BITMIME"
    elif not _is_ascii(message):
        return Verdict(Result.PERMANENT, EIGHT_BIT_HOP, "mail: the hop does not offer 8BITMIME")
    return parameters


def dot_stuffed(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The content as it goes on the wire, final dot included (RFC 5321 §4.5.2, §4.1.1.4).

    A line's CRLF and its dot may stand in different chunks. Content whose last line has no CRLF gets one.
    """
    tail = b"\r\n"  # the last two octets so far: we begin at the start of a line
    for chunk in chunks:
        if not chunk:
            continue
        piece = bytes(chunk)
        stuffed = piece.replace(b"\r\n.", b"\r\n..") if b"\r\n." in piece else piece
        if tail == b"\r\n" and piece.startswith(b"."):
            stuffed = b"." + stuffed
        elif tail.endswith(b"\r") and piece.startswith(b"\n."):
            stuffed = b"\n." + stuffed[1:]
        tail = (tail + piece[-2:])[-2:]
        yield stuffed
    yield b".\r\n" if tail == b"\r\n" else b"\r\n.\r\n"


def _is_ascii(message: Message) -> bool:
    return all(bytes(chunk).isascii() for chunk in message.chunks())

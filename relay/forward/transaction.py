"""One mail transaction on an open connection: exact bytes out, a verdict a recipient back.

STANDARDS  RFC 5321 §3.3, §4.1.1.2–4, §4.5.2 (transparency), §4.5.3.2 (timeouts), RFC 2920 (PIPELINING),
           RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 3461 (DSN), RFC 2033 (LMTP).
TRUSTS     that addresses were parsed by `relay.address`, DSN parameters by `accept/dsn.py`, and that
           content has CRLF line ends only (`accept/wire.py`): none of it is looked at again here.
FAILS      Trouble, after which the connection must not be used again. A refusal is a Verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from relay.address import Address
from relay.envelope import Envelope, Notify
from relay.forward.connection import Connection
from relay.forward.dialogue import Dialogue
from relay.forward.trouble import Fault, Phase, Trouble, Verdict, judge, refusal
from relay.message import CHUNK, Message
from relay.outcome import Result
from relay.reply import DISAGREE, EIGHT_BIT_HOP, RECIPIENT_OK, TOO_BIG_HOP, UTF8_HOP, from_hop

_DATA = b"DATA\r\n"
_DEFAULT = Notify()


class Transaction:
    """until of the dialogue: our final dot is not written after it.

    commit: told when the final dot goes; from then on nobody may close the connection under us.
    is_lmtp: the hop answers the final dot once for each recipient (RFC 2033 §4.2).
    each: whoever the hop accepts gets the message, though it refuses others.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        envelope: Envelope,
        message: Message,
        recipients: Sequence[Address],
        commit: Callable[[Connection], None],
        *,
        is_lmtp: bool,
        each: bool = False,
    ) -> None:
        self._dialogue, self._connection, self._timeout = dialogue, dialogue.connection, dialogue.timeout
        self._envelope, self._message, self._recipients = envelope, message, recipients
        self._commit, self._is_lmtp, self._each = commit, is_lmtp, each
        self._pieces = [*message.chunks()]
        self._replies = 1  # to the final dot

    async def run(self) -> tuple[Verdict, ...]:
        """A verdict a recipient, in their order. Raises Trouble."""
        dialogue, extensions = self._dialogue, self._connection.extensions
        sender = str(self._envelope.reverse_path or "").encode()
        paths = [str(recipient).encode() for recipient in self._recipients]
        parameters = mail_parameters(extensions, self._envelope, [sender, *paths], self._message, self._pieces)
        if isinstance(parameters, Verdict):
            return self._for_all(parameters)
        mail = b"MAIL FROM:<%s>%s\r\n" % (sender, parameters)
        rcpts = [
            b"RCPT TO:<%s>%s\r\n" % (path, rcpt_parameters(extensions, self._envelope, recipient))
            for path, recipient in zip(paths, self._recipients, strict=True)
        ]
        # A pipelined DATA commits us to content before we know who takes it. With a single recipient
        # that is harmless: nobody takes it, nothing is sent (`Dialogue.end`).
        early_data = dialogue.is_pipelining and len(rcpts) == 1
        dialogue.send_ahead(mail, *rcpts, *[_DATA] * early_data)

        if refused := await dialogue.ask(Phase.MAIL, mail, self._timeout.mail):
            return await self._end(self._for_all(judge(refused)))
        answers: list[Trouble | None] = []
        for rcpt in rcpts:
            answers.append(await dialogue.ask(Phase.RCPT, rcpt, self._timeout.rcpt))
        if all(answers) or (any(answers) and not self._each):
            # With LMTP too: those who were accepted could have the message now, but one more 451 is all the
            # client would hear of it, and its retry finds everybody's answer known in either case.
            return await self._end(tuple(judge(answer) if answer else _NOT_SENT for answer in answers))
        if not early_data:
            self._connection.send(_DATA, 1)
        accepted = answers.count(None)
        if refused := await dialogue.answer(Phase.DATA, self._timeout.data):
            verdicts = (judge(refused),) * accepted
            await dialogue.end()
        else:
            self._replies = accepted if self._is_lmtp else 1
            await self._send_content()
            verdicts = await self._outcome()
        if len(verdicts) < accepted:
            verdicts *= accepted
        if accepted == len(answers):
            return verdicts
        told = iter(verdicts)
        return tuple(judge(answer) if answer else next(told) for answer in answers)

    async def _send_content(self) -> None:
        """The content and the final dot, in as few writes as their size allows."""
        held: list[bytes] = []
        size = 0
        for piece in dot_stuffed(self._pieces):
            if size >= CHUNK:
                await self._drain()
                self._connection.send(b"".join(held), 0)
                held, size = [], 0
            held.append(piece)
            size += len(piece)
        await self._drain()
        if self._dialogue.clock.monotonic() >= self._dialogue.until:
            raise Trouble(Phase.CONTENT, Fault.SILENT, "no time left for the final dot")
        self._commit(self._connection)
        self._connection.send(b"".join(held), self._replies)

    def _drain(self) -> Awaitable[None]:
        return self._connection.drain(Phase.CONTENT, self._timeout.data_block, self._dialogue.until)

    async def _outcome(self) -> tuple[Verdict, ...]:
        """A verdict for each reply that the hop owes; those it gave stand, whatever becomes of the others."""
        # RFC 5321 §4.5.3.2.6: whatever our client does meanwhile. To leave early makes duplicates.
        seconds = self._timeout.final_dot
        until = self._dialogue.clock.monotonic() + seconds
        verdicts: list[Verdict] = []
        is_closing = False
        try:
            while len(verdicts) < self._replies:
                reply = await self._connection.reply(Phase.DOT, seconds, until)
                refused = refusal(Phase.DOT, reply)
                if refused and refused.fault is Fault.GARBAGE:
                    raise refused
                is_closing = is_closing or bool(refused and refused.fault is Fault.CLOSING)
                verdicts.append(judge(refused) if refused else Verdict(Result.DELIVERED, from_hop(*reply)))
        except Trouble as trouble:
            verdicts += [judge(trouble)] * (self._replies - len(verdicts))
            is_closing = True
        self._connection.messages += 1
        if is_closing:
            self._connection.abort()
        return tuple(verdicts)

    async def _end(self, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
        await self._dialogue.end()
        return verdicts

    def _for_all(self, verdict: Verdict) -> tuple[Verdict, ...]:
        return (verdict,) * len(self._recipients)


async def inquire(dialogue: Dialogue, recipient: Address) -> Verdict:
    """What the hop says to RCPT for `recipient`, from the null reverse-path; nothing is sent. Raises Trouble.

    DELIVERED means that it would take him.
    """
    utf8 = b""
    if not recipient.is_ascii:
        if "smtputf8" not in dialogue.connection.extensions:
            return Verdict(Result.PERMANENT, UTF8_HOP, "mail: the hop does not offer SMTPUTF8")
        utf8 = b" SMTPUTF8"
    mail, rcpt = b"MAIL FROM:<>%s\r\n" % utf8, b"RCPT TO:<%s>\r\n" % str(recipient).encode()
    dialogue.send_ahead(mail, rcpt)
    refused = await dialogue.ask(Phase.MAIL, mail, dialogue.timeout.mail)
    if refused is None:
        refused = await dialogue.ask(Phase.RCPT, rcpt, dialogue.timeout.rcpt)
    dialogue.connection.messages += 1
    await dialogue.end()
    return judge(refused) if refused else Verdict(Result.DELIVERED, RECIPIENT_OK)


# An accepted recipient of a message that others refuse.
_NOT_SENT = Verdict(Result.TEMPORARY, DISAGREE, "rcpt: accepted, but not all were")


def mail_parameters(
    extensions: Mapping[str, str],
    envelope: Envelope,
    paths: Iterable[bytes],
    message: Message,
    pieces: Sequence[bytes | memoryview],
) -> bytes | Verdict:
    """What goes behind `MAIL FROM:<…>`, or the verdict if this hop cannot take this message.

    paths: all addresses, as the hop is told them. pieces: the message's.
    """
    parameters = b""
    if "size" in extensions:
        size = sum(map(len, pieces))
        limit = extensions["size"].strip()
        # RFC 1870 §3: without a number, or with 0, there is no fixed maximum.
        if limit.isdecimal() and 0 < int(limit) < size:
            return Verdict(Result.PERMANENT, TOO_BIG_HOP, f"mail: {size} octets, the hop takes {limit}")
        parameters += b" SIZE=%d" % size
    if not all(map(bytes.isascii, paths)) or (envelope.smtputf8 and not message.header.isascii()):
        if "smtputf8" not in extensions:
            return Verdict(Result.PERMANENT, UTF8_HOP, "mail: the hop does not offer SMTPUTF8")
        parameters += b" SMTPUTF8"
    if "8bitmime" in extensions:
        if envelope.eight_bit or not _are_ascii(pieces):
            parameters += b" BODY=8BITMIME"
    elif not _are_ascii(pieces):
        return Verdict(Result.PERMANENT, EIGHT_BIT_HOP, "mail: the hop does not offer 8BITMIME")
    if envelope.ret or envelope.envid:
        parameters += _dsn(extensions, RET=envelope.ret, ENVID=envelope.envid)
    return parameters


def rcpt_parameters(extensions: Mapping[str, str], envelope: Envelope, recipient: Address) -> bytes:
    """What goes behind `RCPT TO:<…>`."""
    if not envelope.notify:
        return b""
    notify = envelope.notify.get(recipient, _DEFAULT)
    return _dsn(extensions, NOTIFY=notify.on, ORCPT=notify.original)


def _dsn(extensions: Mapping[str, str], **values: str) -> bytes:
    """The parameters that were given, unchanged, to a hop that offers DSN (RFC 3461 §5.2.1).

    We offer DSN only where the next hops do, so a hop without it stopped offering it a moment ago.
    Of queued mail we report "relayed" for NOTIFY=SUCCESS then (`queue/schedule.py`). We differ: of proxied mail we
    report nothing, though RFC 3461 §5.2.2 would have us.
    """
    if "dsn" not in extensions:
        return b""
    return "".join(f" {name}={value}" for name, value in values.items() if value).encode()


def dot_stuffed(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The content as it goes on the wire, final dot included (RFC 5321 §4.5.2, §4.1.1.4).

    A line's CRLF and its dot may stand in different chunks. Content whose last line has no CRLF gets one.
    """
    tail = b"\r\n"  # the last two octets so far: we begin at the start of a line
    for chunk in chunks:
        if not chunk:
            continue
        piece = bytes(chunk)
        # A single octet is found thirty times as fast, and in base64 there is no dot.
        stuffed = piece.replace(b"\r\n.", b"\r\n..") if b"." in piece and b"\r\n." in piece else piece
        if tail == b"\r\n" and piece.startswith(b"."):
            stuffed = b"." + stuffed
        elif tail.endswith(b"\r") and piece.startswith(b"\n."):
            stuffed = b"\n." + stuffed[1:]
        tail = (tail + piece[-2:])[-2:]
        yield stuffed
    yield b".\r\n" if tail == b"\r\n" else b"\r\n.\r\n"


def _are_ascii(pieces: Iterable[bytes | memoryview]) -> bool:
    return all(map(bytes.isascii, map(bytes, pieces)))

# mypy: disable-error-code="override"
"""A message comes over the connection: DATA and BDAT, from the command to the reply at the message's end.

STANDARDS  RFC 5321 §3.3, §4.1.1.4 (DATA), §4.5.3.2.5 (a deadline for every block), RFC 3030 (BDAT),
           RFC 2920 §3.1 (what may be pipelined).
TRUSTS     nothing. After a refused DATA the client's text must not run as commands, nor may what a
           refused chunk holds.
FAILS      whatever happens once octets of a message may come, they are read as that or the session ends.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from relay import reply as replies
from relay.accept.channel import Channel, HangUp
from relay.accept.chunks import ChunkReader, parse_bdat
from relay.accept.data import DotReader, Incoming, seconds_for_block
from relay.accept.limits import Reservation
from relay.reply import Reply

SMALL_CHUNK = 64  # octets; a chunk below this, but for the last, counts as junk


class Upload(Channel):
    """reading: the message, or the chunk of one, that is being sent to us just now."""

    reading: Incoming | None = None
    _may_be_text = False  # the client may take its own DATA for accepted, and send text

    def smtp_DATA(self, arg: bytes) -> Reply:
        session = self.session
        if refusal := session.data_refusal(arg):
            self._may_be_text = True
            if self._buffer and session.login is None:
                raise HangUp(refusal, "text behind a refused DATA")
            return refusal
        if self._buffer and self.service.is_gateway and session.login is None:
            raise HangUp(replies.OUT_OF_STEP, "text before 354")  # RFC 2920 §3.1
        reservation = Reservation(self.service.load, self.service.settings.max_message_size)
        self.reading = DotReader(reservation, self.loop.time())
        return replies.START_DATA

    async def _receive_text(self, message: DotReader) -> None:
        """The message behind 354, and the reply to it."""
        try:
            if await self._read(message, self._read_to_dot(message)):
                await self._conclude(message)
        finally:
            # Whatever happened, no second message may use this envelope.
            message.release()
            self.session.reset()

    async def smtp_BDAT(self, arg: bytes) -> Reply | None:
        """Each chunk is read to its end, then answered. After one that is refused all are, up to the last."""
        session = self.session
        chunk = parse_bdat(arg)
        if isinstance(chunk, Reply):
            raise HangUp(session.refused_content(chunk), "BDAT without a size")
        if chunk.size < SMALL_CHUNK and not chunk.is_last:
            session.junk += 1
        message = session.chunked(self.loop.time())
        if chunk.fault:
            message.refuse(chunk.fault)
        if message.received + chunk.size > self.service.settings.max_message_size:
            message.refuse(replies.TOO_BIG)
        if message.received + chunk.size > self._most:
            raise HangUp(message.refused, "endless message")
        if not await self._read(message, self._read_octets(message, chunk.size)):
            return None
        if chunk.is_last:
            message.finish()
        if message.refused is not None:
            return self._refuse_chunk(message, message.refused, is_last=chunk.is_last)
        if not chunk.is_last:
            return replies.chunk_taken(chunk.size)
        try:
            await self._conclude(message)
        finally:
            session.reset()
        return None

    def _refuse_chunk(self, message: ChunkReader, reply: Reply, *, is_last: bool) -> Reply | None:
        """One error, however many chunks the client had sent ahead."""
        was_told, message.is_told = message.is_told, True
        if not was_told:
            self.session.refused_content(reply)
        if is_last:
            self.session.reset()
        if was_told:
            self.say(reply)
        return None if was_told else reply

    async def _conclude(self, message: Incoming) -> None:
        """The whole message has come: hand it on, and say what became of it."""
        session = self.session
        if message.refused is not None:
            reply = session.refused_content(message.refused)
        else:
            reply = await session.receive(message.content, message.problem)
        # Whoever closed behind its dot, with nothing more to say, has most likely given up; a script that sent
        # all of its session ahead reads on.
        if self._is_lost or (self._is_at_end and not self._buffer):
            await session.unheard(message.content, reply, is_lost=self._is_lost)
        self.say(reply)

    async def _read(self, message: Incoming, reading: Coroutine[Any, Any, bool]) -> bool:
        """False: the client went away before the end."""
        self.reading = message
        try:
            return await reading
        except HangUp:
            raise
        except Exception as error:  # what follows is still the message, and must not run as commands
            raise HangUp(self.session.trouble(error), "trouble while reading a message") from error
        finally:
            self.reading = None

    async def _read_to_dot(self, message: DotReader) -> bool:
        while True:
            if self._buffer:
                piece, self._buffer = self._buffer, bytearray()
                rest = message.feed(piece)
                del piece
                if rest is not None:
                    self._buffer = rest
                    return True
            if self._is_at_end:
                return False
            if message.refused and message.received > self._most:
                raise HangUp(message.refused, "endless message")
            await self._wait_for_block(message)

    async def _read_octets(self, message: ChunkReader, left: int) -> bool:
        while left:
            if not self._buffer:
                if self._is_at_end:
                    return False
                await self.flush()
                await self._wait_for_block(message)
                continue
            if len(self._buffer) <= left:
                piece, self._buffer = self._buffer, bytearray()
            else:
                piece = self._buffer[:left]
                del self._buffer[:left]
            left -= len(piece)
            message.feed(piece)
        return True

    async def _wait_for_block(self, message: Incoming) -> None:
        until = self._block_until(message)
        if until <= self.loop.time() or not await self.wait(until):
            raise HangUp(replies.TOO_SLOW, "slow message")

    def _block_until(self, message: Incoming) -> float:
        """When the next block of `message` must have come."""
        now = self.loop.time()
        return now + seconds_for_block(
            now - message.begun,
            message.received,
            idle=self.service.patience.data_idle,
            rate=self.service.config.timeout.data_min_rate,
        )

    @property
    def _most(self) -> int:
        """Octets of a message that are read, though it is refused, to come to its end."""
        return 4 * self.service.settings.max_message_size + 2**20

"""The message behind DATA: the true end found over any chunk border, dots unstuffed, size bounded.

STANDARDS  RFC 5321 §4.5.2 (transparency), §4.1.1.4 (the end is CRLF.CRLF and nothing else).
TRUSTS     nothing: no other octets end a message, whatever they look like (SMTP smuggling).
FAILS      never: what is too big is read on to its end and forgotten, `refused` says why.
"""

from __future__ import annotations

from relay import reply as replies
from relay.accept import wire
from relay.accept.limits import Reservation
from relay.reply import Reply

_DOT = b"\r\n."
_END = b"\r\n.\r\n"


class Incoming:
    """A message that is being sent to us; holds it once, and one piece beside it.

    content: the message so far; empty once it is refused.
    received: octets taken from the wire so far.
    refused: the reply that is due at its end, None while all is well.
    problem: `wire.problem` of the message so far. It is asked of each piece, so that no message
             holds the loop for long; a piece never ends inside a CRLF, so that the answer is the same.
    """

    __slots__ = ("_reservation", "begun", "content", "problem", "received", "refused")

    def __init__(self, reservation: Reservation, begun: float) -> None:
        """reservation: asked before the message grows. begun: when it was announced, on the loop's clock."""
        self.begun = begun
        self.content = bytearray()
        self.received = 0
        self.refused: Reply | None = None
        self.problem: Reply | None = None
        self._reservation = reservation

    def release(self) -> None:
        """Give back the memory that was counted for it."""
        self._reservation.release()

    def _add(self, piece: bytearray) -> None:
        if self.refused is not None:
            return
        self.refused = self._reservation.grow(len(self.content) + len(piece))
        if self.refused is None:
            self.content += piece
            if self.problem is not replies.NUL_OCTET:  # the one that cannot be repaired
                self.problem = wire.problem(piece) or self.problem
        else:
            self.content = bytearray()


class DotReader(Incoming):
    """Takes pieces of any length until the final dot; `content` has no stuffed dots."""

    __slots__ = ("_begun", "_tail")

    def __init__(self, reservation: Reservation, begun: float) -> None:
        super().__init__(reservation, begun)
        self._tail = b"\r\n"  # the CRLF of the DATA command: a dot may follow at once
        self._begun = False

    def feed(self, chunk: bytearray) -> bytearray | None:
        """Take `chunk`. None: the end has not come; else what stands behind the end."""
        self.received += len(chunk)
        chunk[:0] = self._tail
        # A single octet is found thirty times as fast, and in base64 there is no dot; most messages have one: the last.
        dot = chunk.find(_DOT) if b"." in chunk else -1
        end = chunk.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            rest = chunk[end + len(_END) :]
            self.received -= len(rest)
            del chunk[end + 2 :]
            self._tail = b""
            self._take(chunk, dot < end)
            return rest
        kept = _pending(chunk)
        self._tail = bytes(chunk[len(chunk) - kept :])
        del chunk[len(chunk) - kept :]
        self._take(chunk, dot >= 0)
        return None

    def _take(self, piece: bytearray, is_stuffed: bool) -> None:
        if is_stuffed:
            piece = piece.replace(_DOT, b"\r\n")
        if not self._begun and piece:
            self._begun = True
            del piece[:2]
        if piece:
            self._add(piece)


def seconds_for_block(elapsed: float, received: int, *, idle: float, rate: int, grace: float = 60.0) -> float:
    """How many seconds the next block of a message may take.

    Never longer than `idle`; after the first `grace` seconds the whole must have kept up `rate`
    octets a second. There is no fixed total: a slow line may send a large message.
    """
    return min(idle, max(grace, received / rate if rate else idle + elapsed) - elapsed)


def _pending(chunk: bytearray) -> int:
    """How many octets at the end of `chunk` may be the beginning of the final dot."""
    for length in range(len(_END) - 1, 0, -1):
        if chunk.endswith(_END[:length]):
            return length
    return 0

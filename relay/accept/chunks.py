"""The message behind BDAT: chunks of a length that is said, joined.

STANDARDS  RFC 3030 §2 (BDAT), §2.1 (sequence; after a failed chunk the transaction only ends).
TRUSTS     nothing. What a chunk holds is never looked at for commands, only for what makes the joined
           octets no message; lines may lie across chunks.
FAILS      a chunk is read to its end whatever is wrong with it. A length that cannot be read ends the
           session: nobody knows how many octets are not commands.
"""

from __future__ import annotations

from dataclasses import dataclass

from relay import reply as replies
from relay.accept.data import Incoming
from relay.accept.limits import Reservation
from relay.reply import Reply

_MAX_DIGITS = 20  # as RFC 1870 §4 has it for SIZE


@dataclass(frozen=True, slots=True)
class Chunk:
    """BDAT. size: octets that follow its CRLF. is_last: the message ends with them. fault: of its syntax."""

    size: int
    is_last: bool
    fault: Reply | None = None


def parse_bdat(argument: bytes) -> Chunk | Reply:
    """`size [LAST]`; a Reply when no size can be read."""
    size, *rest = argument.upper().split() or [b""]
    if not size.isdigit() or len(size) > _MAX_DIGITS:
        return replies.syntax("write BDAT size [LAST]")
    if rest in ([], [b"LAST"]):
        return Chunk(int(size), bool(rest))
    return Chunk(int(size), b"LAST" in rest, replies.syntax("write BDAT size [LAST]"))


class ChunkReader(Incoming):
    """Takes pieces of chunks. is_told: the client has heard why it is refused."""

    __slots__ = ("_has_cr", "is_told")

    def __init__(self, reservation: Reservation, begun: float) -> None:
        super().__init__(reservation, begun)
        self.is_told = False
        self._has_cr = False  # a CR that may be half of a CRLF

    def feed(self, piece: bytearray) -> None:
        self.received += len(piece)
        if self._has_cr:
            piece[:0] = b"\r"
        self._has_cr = piece.endswith(b"\r")
        if self._has_cr:
            del piece[-1:]
        self._add(piece)

    def finish(self) -> None:
        """The last chunk has come: the last line gets its CRLF where it has none (RFC 6376 §3.4.3 does not mind)."""
        if self._has_cr:
            self._has_cr = False
            self._add(bytearray(b"\r"))
        elif self.content and not self.content.endswith(b"\n"):
            self._add(bytearray(b"\r\n"))

    def refuse(self, reply: Reply) -> None:
        """All further octets are forgotten."""
        self.refused = self.refused or reply
        self.content = bytearray()
        self.release()

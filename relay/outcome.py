"""What became of one recipient in one delivery attempt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.address import Address
from relay.reply import Reply


class Result(StrEnum):
    DELIVERED = "delivered"  # the next hop said 2xx after the final dot
    TEMPORARY = "temporary"  # a 4xx, or trouble before our final dot was sent: nothing was taken
    PERMANENT = "permanent"  # the next hop's own 5xx at MAIL, RCPT, DATA or the dot
    AMBIGUOUS = "ambiguous"  # cut or silent after our final dot: it may have been taken


@dataclass(frozen=True, slots=True)
class Outcome:
    """reply: what a client may be told. hop: the hop's name. host: the host that answered, or "".

    cause: for our log; why it is temporary or ambiguous (`connect: refused`), "" when delivered.
    """

    recipient: Address
    result: Result
    reply: Reply
    hop: str
    host: str = ""
    cause: str = ""

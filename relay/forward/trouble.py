"""Pure: what a failure at a next hop means for the recipient, for the client and for our log.

STANDARDS  RFC 5321 §4.2.1 (4yz, 5yz), §3.8 (421), §4.5.4.1, RFC 1047 (silence after the final dot).
TRUSTS     of a next hop's reply only its code; its text passes through `reply.from_hop`.

`TABLE` is the whole policy. Its one thought: a 5xx is the hop's word on *this mail* only from MAIL
on; before that it is a word on us, and mail must not bounce because our password is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from relay.errors import RelayError
from relay.forward.replies import HopReply
from relay.outcome import Result
from relay.reply import HOP_TIMEOUT, HOP_TLS, HOP_TROUBLE, HOP_UNREACHABLE, Reply, from_hop


class Phase(StrEnum):
    """How far we were (RFC 5321 §4.5.3.2 has a timeout for each)."""

    WAIT = "wait"  # for one of the hop's connections
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    IDENTIFY = "identify"  # XCLIENT, and the EHLO after it
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"  # after 354; our final dot is not yet written
    DOT = "dot"  # our final dot is written


class Fault(StrEnum):
    UNREACHABLE = "unreachable"  # no address, refused, no route
    CUT = "cut"  # FIN or RST while we waited
    SILENT = "silent"  # its time, or the client's patience, ran out
    GARBAGE = "garbage"  # no SMTP, or a reply that cannot stand here
    TLS = "tls"  # no TLS that the configuration accepts
    SETTINGS = "settings"  # nobody's weather: an operator must change something
    CLOSING = "closing"  # 421
    TEMPORARY = "temporary"  # another 4xx
    PERMANENT = "permanent"  # 5xx


class Trouble(RelayError):
    """One failure. It travels inside `forward/` only, and `judge` makes data of it.

    detail: for our log. reply: the hop's, where the failure is a reply.
    """

    def __init__(self, phase: Phase, fault: Fault, detail: str = "", reply: HopReply | None = None) -> None:
        self.phase, self.fault, self.reply = phase, fault, reply
        self.host = ""
        if reply is not None and not detail:
            # A hop may echo what it was sent: at AUTH that is a password.
            detail = str(reply.code) if phase is Phase.AUTH else str(from_hop(*reply))
        self.cause = f"{phase}: {detail or fault}"
        super().__init__(self.cause)

    @property
    def is_stale(self) -> bool:
        """The hop had given the connection up. On a reused one that says nothing about this mail."""
        return self.fault in (Fault.CUT, Fault.CLOSING) and self.phase in _FIRST_WORDS


class Verdict(NamedTuple):
    """What became of one recipient; `cause` and `is_about_hop` as in Outcome."""

    result: Result
    reply: Reply
    cause: str = ""
    is_about_hop: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """reply: what the client is told; None: what the hop said."""

    phases: frozenset[Phase]
    faults: frozenset[Fault]
    result: Result
    reply: Reply | None
    level: str


_SET_UP = frozenset(
    (Phase.WAIT, Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.STARTTLS, Phase.AUTH, Phase.IDENTIFY),
)
_FIRST_WORDS = frozenset((Phase.IDENTIFY, Phase.MAIL, Phase.RCPT, Phase.DATA))
_TRANSACTION = frozenset((Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT))
_DOT = frozenset((Phase.DOT,))
_AFTER_SET_UP = _TRANSACTION | _DOT


def _of(*faults: Fault) -> frozenset[Fault]:
    return frozenset(faults)


# The first row that fits counts.
TABLE: tuple[Row, ...] = (
    # --- before MAIL nothing is said about the mail: always temporary, and the next host is tried
    Row(_SET_UP, _of(Fault.PERMANENT, Fault.SETTINGS), Result.TEMPORARY, HOP_TROUBLE, "error"),
    Row(_SET_UP, _of(Fault.TLS), Result.TEMPORARY, HOP_TLS, "error"),
    Row(
        _SET_UP, _of(Fault.TEMPORARY, Fault.CLOSING, Fault.CUT, Fault.GARBAGE), Result.TEMPORARY, HOP_TROUBLE, "warning"
    ),
    Row(_SET_UP, _of(Fault.UNREACHABLE), Result.TEMPORARY, HOP_UNREACHABLE, "warning"),
    Row(_SET_UP, _of(Fault.SILENT), Result.TEMPORARY, HOP_TIMEOUT, "warning"),
    # --- a reply from MAIL on is the hop's word, and passes through (its 421 as 451)
    Row(_AFTER_SET_UP, _of(Fault.PERMANENT), Result.PERMANENT, None, "info"),
    Row(_AFTER_SET_UP, _of(Fault.TEMPORARY, Fault.CLOSING), Result.TEMPORARY, None, "info"),
    # --- no reply, and our dot not sent: nothing was taken
    Row(_TRANSACTION, _of(Fault.SILENT), Result.TEMPORARY, HOP_TIMEOUT, "warning"),
    Row(_TRANSACTION, _of(Fault.CUT, Fault.GARBAGE), Result.TEMPORARY, HOP_TROUBLE, "warning"),
    # --- no reply, and our dot sent: it may have been taken (RFC 1047), so a retry may double it
    Row(_DOT, _of(Fault.SILENT), Result.AMBIGUOUS, HOP_TIMEOUT, "warning"),
    Row(_DOT, _of(Fault.CUT, Fault.GARBAGE), Result.AMBIGUOUS, HOP_TROUBLE, "warning"),
)

# RFC 5321 §4.3.2: the class of the reply with which a phase goes on.
_GOES_ON = {Phase.IDENTIFY: 2, Phase.MAIL: 2, Phase.RCPT: 2, Phase.DATA: 3, Phase.CONTENT: 0, Phase.DOT: 2}


def row_for(trouble: Trouble) -> Row:
    return next(row for row in TABLE if trouble.phase in row.phases and trouble.fault in row.faults)


def judge(trouble: Trouble) -> Verdict:
    row = row_for(trouble)
    return Verdict(row.result, row.reply or _passed_on(trouble.reply), trouble.cause, trouble.phase in _SET_UP)


def refusal(phase: Phase, reply: HopReply) -> Trouble | None:
    """What `reply` is at `phase`, unless it is the reply with which the phase goes on."""
    if reply.code // 100 == _GOES_ON.get(phase):
        return None
    if reply.code == 421:
        return Trouble(phase, Fault.CLOSING, reply=reply)
    match reply.code // 100:
        case 4:
            return Trouble(phase, Fault.TEMPORARY, reply=reply)
        case 5:
            return Trouble(phase, Fault.PERMANENT, reply=reply)
    return Trouble(phase, Fault.GARBAGE, f"unexpected reply {reply.code}", reply)


def _passed_on(reply: HopReply | None) -> Reply:
    """The hop's reply for the client, whose own connection to us is not closing: 421 becomes 451."""
    if reply is None:
        raise ValueError("a row without a reply of ours needs one of the hop's")
    said = from_hop(*reply)
    return Reply(451, said.detail, said.text) if said.code == 421 else said

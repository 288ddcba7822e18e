"""Pure: the states of a recipient in the queue, and the moves between them. `relay/queue/__init__.py` tells the story.

A recipient has a state, not a message: the recipients of one message may have different next hops, and
different fates behind the same one. The message goes when the last of its recipients is done.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    WAITING = "waiting"  # to be tried when it is due
    ACTIVE = "active"  # claimed under a lease: a worker may be talking to its next hop now
    REPORT = "report"  # its fate is final, and its sender must hear of it
    HELD = "held"  # nothing happens until an operator says so
    DONE = "done"  # nothing is left to do


class Move(StrEnum):
    CLAIM = "claim"  # a worker takes it, and the attempt is written before anything is sent
    DELIVERED = "delivered"  # the next hop took it, and nobody is to be told
    DEFERRED = "deferred"  # temporary or ambiguous: again later
    FINAL = "final"  # failed, expired, or delivered to one who asked to hear of it: a report is due
    SILENT = "silent"  # failed, and its sender wants no report (NOTIFY=NEVER)
    STRANDED = "stranded"  # failed, and there is nobody to tell: a bounce, or a stranger's mail
    RETURN = "return"  # a clean stop: as if it had never been claimed
    LAPSE = "lapse"  # the lease ran out: whoever held it is dead or frozen
    POISON = "poison"  # as LAPSE, for the last time: every relay that tried it ended
    REPORTED = "reported"  # the report is in the queue, committed together with this move
    HOLD = "hold"  # the operator's, like the three below
    RELEASE = "release"
    RETRY = "retry"
    DROP = "drop"


MOVES: dict[tuple[State, Move], State] = {
    (State.WAITING, Move.CLAIM): State.ACTIVE,
    (State.ACTIVE, Move.DELIVERED): State.DONE,
    (State.ACTIVE, Move.DEFERRED): State.WAITING,
    (State.ACTIVE, Move.FINAL): State.REPORT,
    (State.ACTIVE, Move.SILENT): State.DONE,
    (State.ACTIVE, Move.STRANDED): State.HELD,
    (State.ACTIVE, Move.RETURN): State.WAITING,
    (State.ACTIVE, Move.LAPSE): State.WAITING,
    (State.ACTIVE, Move.POISON): State.HELD,
    (State.REPORT, Move.REPORTED): State.DONE,
    (State.WAITING, Move.HOLD): State.HELD,
    (State.HELD, Move.RELEASE): State.WAITING,
    (State.WAITING, Move.RETRY): State.WAITING,
    (State.WAITING, Move.DROP): State.DONE,
    (State.HELD, Move.DROP): State.DONE,
    (State.REPORT, Move.DROP): State.DONE,
}


def after(state: State, move: Move) -> State:
    """The state behind a move. Raises ValueError for one that does not exist: our own mistake."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise ValueError(f"a recipient that is {state} cannot be {move}") from None


def before(move: Move) -> tuple[State, ...]:
    """The states that a move begins in."""
    return tuple(state for state, one in MOVES if one is move)

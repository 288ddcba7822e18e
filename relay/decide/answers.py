"""Pure: what next hops said about recipients, and for how long it counts.

The lifetimes are those of Postfix's verify(8): an answer is used until it expires; once it is due it is
asked for again while the old one serves on. Only a next hop's plain word on the recipient makes him unknown.

STANDARDS  RFC 5321 §3.6.2, §4.2.3 (550, 551, 553), RFC 3463 §3.2, §3.3 (which codes speak of the address).
TRUSTS     of a next hop's reply its codes; its text is neither kept nor repeated.
FAILS      never: what is no clear word is trouble, and trouble makes nobody unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import NamedTuple

from relay.config.models import OnTrouble, Verify
from relay.outcome import Outcome, Result
from relay.reply import NO_SUCH_RECIPIENT, UNVERIFIED, Reply

Key = tuple[str, str]  # name of the hop, key of the address

# RFC 3463: bad mailbox, bad system, bad syntax, has moved, disabled; and what says no more than its 550.
# Not full mailboxes (2.2), nor refusals of the sender or of our address (1.8, 7.1): another mail gets through.
_NOBODY = frozenset(("0.0", "1.0", "1.1", "1.2", "1.3", "1.6", "1.10", "2.1"))
_CODES = frozenset((550, 551, 553))


class Answer(NamedTuple):
    """since: when it was given, on the monotonic clock."""

    is_known: bool
    since: float


class Step(StrEnum):
    USE = "use"
    REFRESH = "refresh"  # use it, and ask again meanwhile
    ASK = "ask"  # first


def step(answer: Answer | None, settings: Verify, now: float) -> Step:
    """What to do about a recipient of whom `answer` is kept."""
    if answer is None:
        return Step.ASK
    expires, due = (
        (settings.positive, settings.positive_refresh)
        if answer.is_known
        else (settings.negative, settings.negative_refresh)
    )
    age = now - answer.since
    return Step.ASK if age >= expires else Step.REFRESH if age >= due else Step.USE


def read(outcome: Outcome) -> bool | None:
    """What a hop's answer says of the recipient: known, unknown, or (None) nothing."""
    if outcome.result is Result.DELIVERED:
        return True
    # A 5xx to MAIL speaks of the sender.
    is_about_him = outcome.result is Result.PERMANENT and outcome.cause.startswith("rcpt:")
    return False if is_about_him and outcome.reply.code in _CODES and outcome.reply.detail in _NOBODY else None


def refusal(answer: Answer | None, said: bool | None, on_trouble: OnTrouble) -> Reply | None:
    """The refusal of a RCPT command, or None. answer: kept, expired or not. said: by the hop now; None in trouble."""
    if said is None and answer is not None and answer.is_known:
        return None  # he was there when last we heard
    if said is None:
        return UNVERIFIED if on_trouble is OnTrouble.DEFER else None
    return None if said else NO_SUCH_RECIPIENT


class Answers:
    """The kept answers. Names that a stranger made up leave before recipients there are."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, float] = OrderedDict()
        self._unknown: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    def get(self, key: Key) -> Answer | None:
        if key in self._known:
            return Answer(True, self._known[key])
        return Answer(False, self._unknown[key]) if key in self._unknown else None

    def keep(self, key: Key, answer: Answer, most: int) -> None:
        """Keep it as the newest, in place of the one before; then drop the oldest above `most`."""
        self._known.pop(key, None)
        self._unknown.pop(key, None)
        (self._known if answer.is_known else self._unknown)[key] = answer.since
        while len(self) > most:
            (self._unknown or self._known).popitem(last=False)

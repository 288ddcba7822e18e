"""What DNS answered, kept for as long as it said, within a bound on entries and octets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from relay.errors import ResolverError

MAX_TTL = 86_400.0  # RFC 8767 §4 caps at a week; a day is enough for a mail relay


class Question(NamedTuple):
    """`kind` is a record type (`TXT`); `name` is lower case, without the final dot."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: `records` of the type asked for, or `error` and its `text`.

    ttl: seconds it may be kept; 0 for one that may not. octets: what it weighs in the cache, roughly.
    """

    records: tuple[object, ...] = ()
    error: type[ResolverError] | None = None
    text: str = ""
    ttl: float = 0.0
    octets: int = 0


class Cache:
    """The least recently used answer goes first when there are too many entries or octets."""

    def __init__(self, max_entries: int, max_octets: int) -> None:
        self._kept: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        self._max_entries = max_entries
        self._max_octets = max_octets
        self._octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: Question, now: float) -> Answer | None:
        """The answer, if it may still be used at `now` (monotonic seconds)."""
        found = self._kept.get(question)
        if found is None:
            return None
        expires, answer = found
        if now >= expires:
            self._drop(question)
            return None
        self._kept.move_to_end(question)
        return answer

    def put(self, question: Question, answer: Answer, now: float) -> None:
        if answer.ttl <= 0:
            return
        self._drop(question)
        self._kept[question] = (now + min(answer.ttl, MAX_TTL), answer)
        self._octets += answer.octets
        while len(self._kept) > self._max_entries or self._octets > self._max_octets:
            self._drop(next(iter(self._kept)))

    def _drop(self, question: Question) -> None:
        if found := self._kept.pop(question, None):
            self._octets -= found[1].octets

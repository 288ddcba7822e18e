"""The steps of one SPF check for people to read: each term, each question, what came of it; bounded."""

from __future__ import annotations

from relay.verdict import Step

MAX_STEPS = 300  # a record may have thousands of terms
MAX_SHOWN = 500  # characters of a record, a term or an answer


class Trace:
    def __init__(self) -> None:
        self._steps: list[Step] = []

    def note(self, depth: int, what: str, found: str = "", seconds: float = 0.0) -> int:
        """Add a step; its place, for `settle`."""
        place = len(self._steps)
        if place < MAX_STEPS:
            self._steps.append(Step(depth, what[:MAX_SHOWN], found[:MAX_SHOWN], seconds))
        elif place == MAX_STEPS:
            self._steps.append(Step(0, "…", "the trace is cut here"))
        return place

    def settle(self, place: int, found: str) -> None:
        """Say what came of the step at `place`, once those below it are there."""
        if place < MAX_STEPS:
            step = self._steps[place]
            self._steps[place] = Step(step.depth, step.what, found[:MAX_SHOWN], step.seconds)

    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps)


def shown(value: object) -> str:
    """A record's value as text: ASCII, whatever its octets are."""
    if isinstance(value, bytes):
        return value[:MAX_SHOWN].decode("ascii", "backslashreplace")
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)

"""What one process of the relay tells the others, by topic: rare things that all must know, such as a failed login.

With one process nobody listens, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Note:
    """lasts: it is told to processes that start later, too. values: picklable; times are monotonic."""

    topic: str
    values: tuple[Any, ...]
    lasts: bool


class Telling:
    """send: takes our notes to the others; nowhere if there are none."""

    def __init__(self) -> None:
        self.send: Callable[[Note], None] | None = None
        self._topics: dict[str, Callable[..., None]] = {}

    def join(self, topic: str, hear: Callable[..., None], *, lasts: bool = True) -> Callable[..., None]:
        """hear: takes what others say under `topic`. Returned is what says something to them."""
        self._topics[topic] = hear

        def say(*values: Any) -> None:
            if self.send is not None:
                self.send(Note(topic, values, lasts))

        return say

    def hear(self, note: Note) -> None:
        """Another process said this."""
        if heard := self._topics.get(note.topic):
            heard(*note.values)

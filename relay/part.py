"""Which part of the relay a process is: all of it, the supervisor, or one of its workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.shared import Memory
from relay.telling import Telling


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """serves: it takes mail in and sends it out. oversees: what there is once: the lock of the queue, reports,

    `relay queue`, the page of metrics. number: of the worker, from 1; 0 is the supervisor. count: of workers.
    telling: to the other processes. memory: that workers share; None with one process.
    """

    serves: bool = True
    oversees: bool = True
    number: int = 1
    count: int = 1
    telling: Telling = field(default_factory=Telling)
    memory: Memory | None = None

    @property
    def keeps_house(self) -> bool:
        """It deletes what is past its time."""
        return self.number == 1

"""What the command line asks of every workload."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """rounds: of every cell. seconds: that a round should last. workers: the relay's processes."""

    quick: bool = False
    rounds: int = 5
    seconds: float = 2.0
    workers: int = 1

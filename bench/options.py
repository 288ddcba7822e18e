"""What the command line asks of every workload."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """rounds: of every cell. seconds: that a round should last. workers: the relay's processes.

    only: words of which a peer's name has one; none: all peers.
    """

    quick: bool = False
    rounds: int = 5
    seconds: float = 2.0
    workers: int = 1
    only: tuple[str, ...] = ()

    def takes(self, peer: str) -> bool:
        return not self.only or any(word.lower() in peer.lower() for word in self.only)

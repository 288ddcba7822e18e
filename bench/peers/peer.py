"""What a peer is to a workload: a name, and a way to start it for a task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.site import Site


class Failed(Exception):
    """A peer did not do what it was started for; its text says what went wrong."""


class LeftOut(Exception):
    """A peer cannot take part; its text says why, and what would change that."""


class Work(StrEnum):
    """plain: hand on as it comes. sign: with RSA-2048 as example.org. gateway: SPF, DKIM, DMARC, and say so."""

    PLAIN = "plain"
    SIGN = "sign"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Task:
    """What a peer is started for: to listen on HOST, and hand on to 127.0.0.1:`sink`.

    tls: STARTTLS to the next hop, and offered to clients. queue: 250 once it is on disk. workers: the relay's
    processes. connections: clients at once that it must be ready for.
    """

    work: Work
    site: Site
    sink: int
    tls: bool = False
    queue: bool = False
    workers: int = 1
    connections: int = 200


@dataclass(frozen=True, slots=True)
class Running:
    """port: on HOST. pids: of its processes; their descendants are its own too. log: a file it writes, if any."""

    port: int
    pids: tuple[int, ...]
    log: Path | None = None

    def trouble(self) -> str:
        """The last line of its log that tells of some, the gravest kind first; empty if none does."""
        lines = self.log.read_text(errors="replace").splitlines()[::-1] if self.log else []
        grave = (
            line[-300:] for word in ("panic", "fatal", "warning", "error") for line in lines if word in line.lower()
        )
        return next(grave, "no trouble in its log")


@dataclass(frozen=True, slots=True)
class Peer:
    """start: given the task and an empty folder; the context is the running peer. It raises LeftOut or Failed."""

    name: str
    start: Callable[[Task, Path], AbstractContextManager[Running]]

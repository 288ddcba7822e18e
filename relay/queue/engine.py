"""A database that holds the queue: one transaction at a time, and what may go wrong with it.

An engine runs operations; it knows none. `sqlite.py` is one file of one machine, `postgres.py` a server that
several relays share. All SQL is in `operations.py` and `selection.py`, the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from relay.errors import RelayError
from relay.reply import DISK_FULL, INTERNAL, Reply

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

# What is done inside a transaction; the float is the time: seconds since the epoch, by the clock of the queue.
# It may run in another thread, and a second time when its transaction had to be rolled back.
Operation = Callable[["Connection", float], T]


class Engine(Protocol):
    is_shared: bool  # relays on other machines use the same tables, and their leases count

    async def open(self) -> None:
        """Connect, migrate, check; what is open stays open. Raises ConfigError."""

    async def close(self) -> None: ...

    async def transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """All of them in one transaction, and what each returned; it is committed and synced.

        Raises what an operation raised, or NotKept; then nothing of it happened, CommitUnknown aside.
        """

    async def read(self, operation: Operation[T]) -> T:
        """On a snapshot, beside writers. Raises NotKept."""


class NotKept(RelayError):
    """The queue cannot be written, or read, at the moment.

    reply: for the client whose message it was. cause: for our log.
    """

    reply: Reply = INTERNAL

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(cause)


class NoRoom(NotKept):
    """The disk, a quota or a limit is full. A smaller message may fit."""

    reply = DISK_FULL


class Unavailable(NotKept):
    """Locked, gone, or too slow: the next one would find the same."""


class CommitUnknown(NotKept):
    """The commit was sent and its answer is not known: all of it may have happened."""

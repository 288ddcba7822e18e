"""Memory that the workers share, for limits that mean "in all": an anonymous file, which each of them has mapped.

Gauges need no lock: a worker writes into a column of its own, and reads all. Tables are locked as a whole by fcntl(2),
for a few microseconds; the kernel drops the lock of a process that dies. What a dead worker had in its columns the
supervisor takes out.

TRUSTS     that all who have the file are workers of one supervisor.
FAILS      never. Where the ways of a table's set are all taken, the entry that ranks lowest is forgotten.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Any

KEY = 16  # octets of the secret that keeps strangers from choosing where they are counted
WAYS = 8  # entries in a set
ADDRESSES = 1 << 16  # entries; of pages that nobody has touched there is no memory
WINDOWS = 1 << 17

_DIGEST = 16  # octets


class Gauge(IntEnum):
    CONNECTIONS = 0
    SLEEPING = 1
    MEMORY = 2


class Memory:
    """count: of workers. descriptor: of the file; None makes one."""

    def __init__(self, count: int, descriptor: int | None = None) -> None:
        self.count = count
        addresses, windows = f"={count}i", "=ddqq"
        # What columns are made of stays aligned, so that no reader ever sees half of a number.
        gauges = KEY + 8 * len(Gauge) * count
        first = gauges + Table.size(addresses, ADDRESSES)
        is_new = descriptor is None
        self.descriptor = os.memfd_create("relay") if descriptor is None else descriptor
        if is_new:
            os.ftruncate(self.descriptor, first + Table.size(windows, WINDOWS))
            os.pwrite(self.descriptor, secrets.token_bytes(KEY), 0)
        self._map = mmap.mmap(self.descriptor, 0)
        columns = memoryview(self._map)[KEY:gauges].cast("q")
        self._gauges = [columns[gauge * count : (gauge + 1) * count] for gauge in Gauge]
        self.addresses = Table(self._map, self.descriptor, gauges, addresses, ADDRESSES, sum)
        self.windows = Table(self._map, self.descriptor, first, windows, WINDOWS, lambda values: float(values[1]))

    def add(self, number: int, gauge: Gauge, change: int) -> int:
        """Add to the worker's own; returned is the total."""
        columns = self._gauges[gauge]
        columns[number - 1] += change
        return sum(columns)

    def total(self, gauge: Gauge) -> int:
        return sum(self._gauges[gauge])

    def clear(self, number: int) -> None:
        """The worker has ended, and with it all that it had open."""
        for columns in self._gauges:
            columns[number - 1] = 0
        self.addresses.clear(number - 1)

    def close(self) -> None:
        for columns in self._gauges:
            columns.release()
        self.addresses.release()
        self.windows.release()
        self._map.close()
        os.close(self.descriptor)


class Table:
    """What is known of many, by key. `with table:` keeps others out, for `get` and what is `put` because of it.

    format: of an entry's values. rank: of values, the lowest of which goes first.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        descriptor: int,
        start: int,
        format: str,
        entries: int,
        rank: Callable[[tuple[Any, ...]], float],
    ) -> None:
        self._memory, self._descriptor, self._start, self._rank = memory, descriptor, start, rank
        self._values = struct.Struct(format)
        self._entry = struct.Struct(f"={_DIGEST}s{self._values.size}s")
        self._sets = entries // WAYS
        self._secret = memory[:KEY]
        self._numbers = memoryview(memory)[start : start + entries * self._entry.size].cast("i")

    @staticmethod
    def size(format: str, entries: int) -> int:
        return entries * (_DIGEST + struct.calcsize(format))

    def __enter__(self) -> Table:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._start)

    def get(self, key: str) -> tuple[Any, ...] | None:
        digest = self._digest(key)
        place, found = self._find(digest)
        return self._values.unpack(self._memory[place + _DIGEST : place + self._entry.size]) if found else None

    def put(self, key: str, *values: float) -> None:
        digest = self._digest(key)
        place, _ = self._find(digest)
        self._entry.pack_into(self._memory, place, digest, self._values.pack(*values))

    def clear(self, column: int) -> None:
        """Set one value of all entries to 0, where all are numbers of four octets. It needs no lock."""
        stride = self._entry.size // 4
        with self._numbers[_DIGEST // 4 + column :: stride] as numbers:
            numbers[:] = memoryview(bytes(4 * len(numbers))).cast("i")

    def release(self) -> None:
        self._numbers.release()

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=_DIGEST, key=self._secret).digest()

    def _find(self, digest: bytes) -> tuple[int, bool]:
        """Where the entry is, or is to be; whether it is there."""
        size = self._entry.size
        start = self._start + int.from_bytes(digest[:4]) % self._sets * WAYS * size
        entries = self._memory[start : start + WAYS * size]
        way, misplaced = divmod(entries.find(digest), size)
        if not misplaced:
            return start + way * size, True
        ranks = [self._rank(self._values.unpack(values)) for _, values in self._entry.iter_unpack(entries)]
        return start + ranks.index(min(ranks)) * size, False

"""CPU time and memory of a peer: of all its processes together, read from /proc.

A process is counted with its children that have ended and been waited for (cutime, cstime): Postfix starts and
ends many. A child that nobody waits for would be missed; no peer here has such.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_GONE = (FileNotFoundError, ProcessLookupError)


def processes(roots: Iterable[int]) -> list[int]:
    """The processes and all that descend from them, as they are now."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(*_GONE):
                children[int(_fields(int(entry.name))[1])].append(int(entry.name))
    found = list(roots)
    for pid in found:  # it grows while it is walked
        found += children[pid]
    return found


def cpu(roots: Iterable[int]) -> float:
    """Seconds of CPU that the processes and their descendants have used, user and system."""
    total = 0
    for pid in processes(roots):
        with suppress(*_GONE):
            total += sum(int(value) for value in _fields(pid)[11:15])
    return total / _TICKS


def memory(roots: Iterable[int]) -> int:
    """Octets resident; a page that processes share is counted once (PSS)."""
    return sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in processes(roots)) * 1024


def resident(roots: Iterable[int]) -> int:
    """Octets resident, shared pages counted in each process: what `Watch` compares with."""
    return sum(map(_resident, processes(roots)))


class Watch:
    """The most octets that processes and their descendants have `resident` at once, by a look every 10 ms.

    What each process had at most (VmHWM) would not do: where messages come to several, that is not at once.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = tuple(roots)
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        looks = 0
        while not self._over.wait(0.01):
            if looks % 50 == 0:  # to find the processes costs more than to look at them
                pids = processes(self._roots)
            looks += 1
            self._most = max(self._most, sum(map(_resident, pids)))


def _resident(pid: int) -> int:
    with suppress(*_GONE):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: [1] parent, [11:15] utime, stime, cutime, cstime (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _kilobytes(pid: int, file: str, name: str) -> int:
    with suppress(*_GONE):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0

"""CPU time and memory of a peer: of all its processes together, read from /proc.

A process is counted with its children that have ended and been waited for (cutime, cstime): Postfix starts and
ends many. A child that nobody waits for would be missed; no peer here has such.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
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


def reset_peaks(roots: Iterable[int]) -> None:
    """From now on `peak` counts anew."""
    for pid in processes(roots):
        with suppress(*_GONE):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(roots: Iterable[int]) -> int:
    """Octets: the sum of what each process had resident at most since `reset_peaks`."""
    return sum(_kilobytes(pid, "status", "VmHWM:") for pid in processes(roots)) * 1024


def resident(roots: Iterable[int]) -> int:
    """Octets resident, shared pages counted in each process: what `peak` compares with."""
    return sum(_kilobytes(pid, "status", "VmRSS:") for pid in processes(roots)) * 1024


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: [1] parent, [11:15] utime, stime, cutime, cstime (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _kilobytes(pid: int, file: str, name: str) -> int:
    with suppress(*_GONE):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0

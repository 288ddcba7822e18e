"""Room on the disk: 452 comes before it is full, and when others have filled it, what waits can still leave.

To deliver is to write: the attempt before, the outcome behind it. So a file holds some room back, and is given up
when a commit finds none; new mail is refused by then.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RESERVE = 8 * 1024**2  # octets


class Reserve:
    """path: of the file that holds the room back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Have it, if the disk has four times as much to spare."""
        with suppress(OSError):  # then there is none, which is what a full disk is
            found = os.statvfs(self._path.parent)
            if self._path.exists() or found.f_bavail * found.f_frsize < 4 * RESERVE:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE)
            finally:
                os.close(descriptor)

    def give_up(self) -> bool:
        """Whether there was one."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


class Disk:
    """path: a file or folder on it. percent: of the disk that stays free. most: octets that a message may have."""

    def __init__(self, path: Path, percent: int, most: int) -> None:
        self._path = path
        self._percent = percent
        self._most = most

    def is_low(self) -> bool:
        """Less is free than that percentage, or than three of the largest messages."""
        try:
            found = os.statvfs(self._path)
        except OSError:
            return False  # the database finds out what is wrong, and says it
        free = found.f_bavail * found.f_frsize
        return free < max(found.f_blocks * found.f_frsize * self._percent // 100, 3 * self._most)

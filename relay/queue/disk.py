"""Whether the disk has room for another message: 452 comes before the disk is full, while all else still works."""

from __future__ import annotations

import os
from pathlib import Path


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

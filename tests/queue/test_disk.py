"""452 comes while there is still room for everything but another message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.queue.disk import Disk

GIB = 1024**3


class Statvfs:
    """A disk of 100 GiB in blocks of 4 KiB."""

    f_frsize = 4096
    f_blocks = 100 * GIB // 4096

    def __init__(self, free: int) -> None:
        self.f_bavail = free // 4096
        self.f_bfree = self.f_blocks  # what root alone may use is not ours


@pytest.mark.parametrize(
    ("free", "percent", "most", "is_low"),
    [
        (5 * GIB, 5, 0, False),
        (5 * GIB - 4096, 5, 0, True),
        (3 * GIB, 0, GIB, False),
        (3 * GIB - 4096, 0, GIB, True),
        (4 * GIB, 5, GIB, True),
        (0, 0, 0, False),
    ],
)
def test_the_larger_of_two_margins(
    monkeypatch: pytest.MonkeyPatch, free: int, percent: int, most: int, is_low: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: Statvfs(free))
    assert Disk(Path("/"), percent, most).is_low() is is_low


def test_this_disk_has_room_for_nothing_at_all(tmp_path: Path) -> None:
    assert not Disk(tmp_path, 0, 0).is_low()
    assert Disk(tmp_path, 101, 0).is_low()


def test_a_disk_that_cannot_be_asked_is_the_databases_trouble(tmp_path: Path) -> None:
    assert not Disk(tmp_path / "gone", 100, 1 << 60).is_low()

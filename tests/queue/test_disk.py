"""452 comes while there is still room for everything but another message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.queue.disk import RESERVE, Disk, Reserve

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


def test_a_reserve_is_made_once_and_given_up_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "queue.reserve")
    assert not reserve.give_up()
    reserve.make()
    made = (tmp_path / "queue.reserve").stat()
    assert made.st_blocks * 512 >= RESERVE
    assert made.st_mode & 0o777 == 0o600
    reserve.make()
    assert (tmp_path / "queue.reserve").stat().st_ino == made.st_ino
    assert reserve.give_up()
    assert not reserve.give_up()


def test_no_reserve_is_made_of_the_last_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: Statvfs(4 * RESERVE - 4096))
    reserve = Reserve(tmp_path / "queue.reserve")
    reserve.make()
    assert not reserve.give_up()

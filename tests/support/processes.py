"""Processes of the machine, as Linux lists them in /proc."""

from __future__ import annotations

from pathlib import Path


def children(process: int) -> list[int]:
    """The numbers of the processes that its first thread has started and that have not been waited for."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]

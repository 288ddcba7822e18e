"""What the garbage collector is told: in a process of its own, because it is told for good."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc
import weakref

from relay.allocator import set_aside_what_stays


class Generation:
    def __init__(self):
        self.itself = self


gc.disable()
first = Generation()
seen = weakref.ref(first)
set_aside_what_stays()
assert gc.get_freeze_count() > 1000, gc.get_freeze_count()
del first
gc.collect()
assert seen() is not None  # it is not looked at ...
set_aside_what_stays()
assert seen() is None  # ... but at the next reload
"""


def test_what_a_start_makes_is_set_aside_and_what_a_reload_leaves_behind_is_found_at_the_next() -> None:
    ran = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

"""What the C library's allocator is told before the relay begins, and the garbage collector when it has."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MORE = 10_000  # objects that have come since the last look and not gone, until the garbage collector looks again


def keep_large_blocks_apart() -> None:
    """Have glibc give each block of 256 KiB or more pages of its own, and no smaller one, whatever has been freed.

    uvloop has 256 KiB for each TLS session and uses little of it. From the heap such a block costs memory
    that others have used before: 49 KB a session instead of 27. What it reads at once, up to 256,000 octets,
    stays below: fresh pages for every read were half of what a large message cost. For the same reason the heap keeps
    2 MiB at its end that are free just now: without, it depends on what lies there, and a message of 10 MB costs
    2450 page faults or 5400.
    """
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # musl has none, and needs none
        allocator.mallopt(_M_MMAP_THRESHOLD, 256 * 1024)
        allocator.mallopt(_M_TRIM_THRESHOLD, 2 * 1024 * 1024)


def set_aside_what_stays() -> None:
    """Spare the garbage collector what a start or a reload has made: modules, classes, the configuration.

    It looked through these 100,000 objects every few thousand messages, and nobody was served for 70 ms. What a
    reload leaves behind in a circle is found at the next.

    It also looks less often. Twenty sessions at work have 700 objects more, Python's measure, every 30 messages;
    a moment later these are gone without it.
    """
    gc.set_threshold(_MORE)
    gc.unfreeze()
    gc.collect()
    gc.freeze()

"""How many workers there are, and the part of a limit that each has, where it cannot be counted over all of them."""

from __future__ import annotations

import os

from relay.config.models import Config

CAN_SHARE = hasattr(os, "memfd_create")  # several workers need what Linux has


def count_of(workers: int) -> int:
    """How many processes `workers` means: with "auto" (0) one for each CPU that this one may use."""
    return workers or (len(os.sched_getaffinity(0)) if CAN_SHARE else 1)


def share(config: Config, number: int, count: int) -> Config:
    """`config` for the worker `number` of `count`: all of them together have what it says, but each at least 1."""
    if count == 1:
        return config

    def part(whole: int) -> int:
        return max(1, whole // count + (number <= whole % count))

    hops = {name: hop.model_copy(update={"connections": part(hop.connections)}) for name, hop in config.hop.items()}
    login = config.login.model_copy(update={"hashes_at_once": part(config.login.hashes_at_once)})
    queue = config.queue.model_copy(update={"spool": part(config.queue.spool)})
    return config.model_copy(update={"hop": hops, "login": login, "queue": queue})

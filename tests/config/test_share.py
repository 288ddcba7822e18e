"""What each worker may do adds up to what all may do."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from relay.config.models import Config
from relay.config.share import count_of, share


def config(connections: int, hashes: int = 2) -> Config:
    return Config.model_validate(
        {
            "hostname": "relay.test",
            "listener": {"submission": {"role": "submission", "port": 0}},
            "hop": {"server": {"host": ["127.0.0.1"], "connections": connections}},
            "login": {"hashes_at_once": hashes},
        }
    )


def test_one_worker_has_all() -> None:
    whole = config(20)
    assert share(whole, 1, 1) is whole


@given(st.integers(1, 500), st.integers(1, 16))
def test_the_shares_are_the_whole_but_each_at_least_one(connections: int, count: int) -> None:
    whole = config(connections)
    shares = [share(whole, number, count).hop["server"].connections for number in range(1, count + 1)]
    assert sum(shares) == max(connections, count)
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1


def test_hashes_and_memory_of_the_queue_are_shared_too() -> None:
    whole = config(20, 5)
    shares = [share(whole, number, 2) for number in (1, 2)]
    assert [one.login.hashes_at_once for one in shares] == [3, 2]
    assert sum(one.queue.spool for one in shares) == whole.queue.spool
    assert {one.limit for one in shares} == {whole.limit}  # counted in memory that they share


def test_auto_is_what_this_process_may_use() -> None:
    assert count_of(3) == 3
    assert count_of(0) == len(os.sched_getaffinity(0))

"""Memory that workers share: what each has counts for all, exactly, also when they count at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from relay import shared
from relay.shared import Gauge, Memory

COUNTS = """
import sys
from relay.shared import Memory
number, descriptor, times = map(int, sys.argv[1:])
memory = Memory(2, descriptor)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    with memory.windows as table:
        before = table.get("key")
        table.put("key", 1.0, 0.0, 0, before[3] + 1 if before else 1)
"""


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory(2)
    yield made
    made.close()


def test_a_total_is_of_all_workers(memory: Memory) -> None:
    assert memory.add(1, Gauge.CONNECTIONS, 2) == 2
    assert memory.add(2, Gauge.CONNECTIONS, 3) == 5
    assert memory.add(2, Gauge.MEMORY, 1 << 40) == 1 << 40
    assert memory.add(1, Gauge.CONNECTIONS, -1) == memory.total(Gauge.CONNECTIONS) == 4
    assert memory.total(Gauge.SLEEPING) == 0


def test_a_dead_worker_has_nothing(memory: Memory) -> None:
    for gauge in Gauge:
        memory.add(1, gauge, 7)
        memory.add(2, gauge, 5)
    for n in range(1000):
        memory.addresses.put(str(n), 3, 4)
    memory.clear(1)
    assert [memory.total(gauge) for gauge in Gauge] == [5, 5, 5]
    assert {memory.addresses.get(str(n)) for n in range(1000)} == {(0, 4)}


def test_keys_are_told_apart(memory: Memory) -> None:
    for n in range(1, 5000):
        memory.windows.put(f"key {n}", 60.0, float(n), n, n + 1)
    assert all(memory.windows.get(f"key {n}") == (60.0, float(n), n, n + 1) for n in range(1, 5000))
    assert memory.windows.get("key") is None


def test_in_a_full_set_the_lowest_goes(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    table = memory.windows
    monkeypatch.setattr(table, "_sets", 1)
    for n in range(1, shared.WAYS + 2):
        table.put(str(n), 60.0, float(n), 0, n)
    assert table.get("1") is None  # its window began first
    assert [table.get(str(n)) for n in range(2, shared.WAYS + 2)] == [
        (60.0, float(n), 0, n) for n in range(2, shared.WAYS + 2)
    ]


def test_processes_that_count_at_once_lose_nothing(memory: Memory) -> None:
    times, processes = 5000, []
    for number in (1, 2):
        command = [sys.executable, "-c", COUNTS, str(number), str(memory.descriptor), str(times)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(memory.descriptor,), text=True
        )
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        process.communicate("go\n", timeout=60)
    assert memory.windows.get("key") == (1.0, 0.0, 0, 2 * times)


def test_who_dies_with_the_lock_locks_nobody_out(memory: Memory) -> None:
    dies = (
        "import os, sys\nfrom relay.shared import Memory\nMemory(2, int(sys.argv[1])).windows.__enter__()\nos._exit(9)"
    )
    command = [sys.executable, "-c", dies, str(memory.descriptor)]
    assert subprocess.run(command, pass_fds=(memory.descriptor,)).returncode == 9
    with memory.windows as table:
        table.put("key", 1.0, 0.0, 0, 1)

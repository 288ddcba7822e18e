"""Two relays never share a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.queue.lock import Lock, Turn

HOLD = """
import sys
import threading
from pathlib import Path
from relay.queue.lock import Lock
Lock(Path(sys.argv[1])).acquire()
print("locked", flush=True)
sys.stdin.read()
"""


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "data" / "queue.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout and holder.stdout.readline() == b"locked\n"
        lock = Lock(path)
        with pytest.raises(ConfigError, match=rf"another relay \(process {holder.pid}\) uses this queue"):
            lock.acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with lock:
            assert path.read_text() == f"{os.getpid()}\n"


def test_it_is_one_for_a_process_too(tmp_path: Path) -> None:
    with Lock(tmp_path / "queue.lock") as lock:
        lock.acquire()  # it is held already
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
            Lock(tmp_path / "queue.lock").acquire()
    with Lock(tmp_path / "queue.lock"):
        pass


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "queue.lock")
    lock.acquire()
    with subprocess.Popen(["sleep", "60"]) as child:
        lock.release()
        with Lock(tmp_path / "queue.lock"):
            pass
        child.kill()


def test_a_lock_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be locked"):
        Lock(tmp_path / "data" / "queue.lock").acquire()


def test_processes_take_turns(tmp_path: Path) -> None:
    first, second, order = Turn(tmp_path, 30.0), Turn(tmp_path, 30.0), list[str]()
    waits = threading.Event()

    def wait() -> None:
        waits.set()
        with second:
            order.append("second")

    with first:
        thread = threading.Thread(target=wait)
        thread.start()
        waits.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    first.close()
    second.close()


def test_a_turn_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    frozen, other = Turn(tmp_path, 30.0), Turn(tmp_path, 0.01)
    with frozen, other:
        pass
    with Turn(tmp_path / "gone", 30.0):
        pass
    frozen.close()
    other.close()

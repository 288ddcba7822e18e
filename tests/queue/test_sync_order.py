"""R3: before every 250 there is a sync of all that was written for it, seen from the kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.peers import require

ROUNDS, TOGETHER = 20, 10
KEEP = f"""
import asyncio, os, sys
from pathlib import Path
from tests.support.storing import make_entry, open_store, soon

async def keep(store):
    entry = make_entry()
    await store.keep(entry, soon(), claim=("next",))
    os.write(1, b"250 queued as " + entry.envelope.id.encode() + b"\\n")

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        for _ in range({ROUNDS}):
            await asyncio.gather(*(keep(store) for _ in range({TOGETHER})))

asyncio.run(main())
"""


def test_every_250_comes_behind_a_sync_of_its_rows(tmp_path: Path) -> None:
    strace, trace = require("strace", "strace"), tmp_path / "trace"
    watched = "trace=fsync,fdatasync,write,pwrite64,rename,unlink"
    command = [strace, "-f", "-y", "-o", trace, "-e", watched, sys.executable, "-c", KEEP]
    ended = subprocess.run([*command, tmp_path / "data" / "queue.db"], capture_output=True, timeout=100)
    calls = trace.read_text().splitlines() if trace.exists() else []
    if not calls:
        pytest.skip("strace may not trace here (a container without SYS_PTRACE)")
    assert ended.returncode == 0, ended.stderr.decode()
    unsynced: set[str] = set()
    begun: dict[str, str] = {}  # by thread: the file of a sync that has not returned
    answers = syncs = 0
    for call in calls:
        thread = call.split()[0]
        if found := re.search(r"pwrite64\(\d+<([^>]*queue\.db(?:-wal|-journal)?)>", call):
            unsynced.add(found[1])
        elif found := re.search(r"f(?:data)?sync\(\d+<([^>]*)>(.*)", call):
            if "unfinished" in found[2]:
                begun[thread] = found[1]
            else:
                unsynced.discard(found[1])
                syncs += 1
        elif re.search(r"f(?:data)?sync resumed>", call):
            unsynced.discard(begun.pop(thread))
            syncs += 1
        elif "write(1" in call and "250 queued" in call:
            answers += 1
            # The file itself is written by checkpoints alone, whose pages are still in the log.
            assert {name for name in unsynced if not name.endswith("queue.db")} == set(), f"line {call}"
    assert answers == ROUNDS * TOGETHER
    assert ROUNDS <= syncs <= ROUNDS + 20, "one sync for all that waited together"


def test_a_new_file_has_its_name_synced_too(tmp_path: Path) -> None:
    strace, trace = require("strace", "strace"), tmp_path / "trace"
    command = [strace, "-f", "-y", "-o", trace, "-e", "trace=fsync,write", sys.executable, "-c", KEEP]
    subprocess.run([*command, tmp_path / "data" / "queue.db"], capture_output=True, timeout=100)
    calls = trace.read_text().splitlines() if trace.exists() else []
    if not calls:
        pytest.skip("strace may not trace here (a container without SYS_PTRACE)")
    first = next(number for number, call in enumerate(calls) if "250 queued" in call)
    for folder in (tmp_path, tmp_path / "data"):
        assert any(f"<{folder}>)" in call for call in calls[:first])

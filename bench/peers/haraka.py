"""Haraka, handing each mail on while its client waits (queue/smtp_forward), where npm has installed it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.network import HOST
from bench.peers.peer import LeftOut, Peer, Running, Task, Work
from tests.support.peers import free_port, listens, require, running, wait_until

FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "relay-bench" / "haraka"
INSTALL = f"npm install --omit=optional --prefix {FOLDER} haraka"


@contextmanager
def _running(task: Task, folder: Path) -> Iterator[Running]:
    if task.work is not Work.PLAIN or task.tls or task.queue:
        raise LeftOut("the bench sets it up for plain mail only")
    program = FOLDER / "node_modules" / "haraka" / "bin" / "haraka"
    if not program.exists():
        raise LeftOut(f"not installed: {INSTALL}")
    node = require("node", "nodejs")
    port = free_port()
    conf = folder / "config"
    subprocess.run([node, str(program), "-i", str(folder)], check=True, capture_output=True)
    files = {
        "smtp.ini": f"listen={HOST}:{port}\nnodes=0\n",
        "me": "mail.example.com\n",
        "host_list": "example.com\n",
        "plugins": "rcpt_to.in_host_list\nqueue/smtp_forward\n",
        "smtp_forward.ini": f"host=127.0.0.1\nport={task.sink}\nenable_outbound=false\nmax_connections=100\n",
        "log.ini": "level=WARN\n",
    }
    for name, text in files.items():
        (conf / name).write_text(text)
    stock = (conf / "connection.ini").read_text()
    (conf / "connection.ini").write_text(stock.replace("bytes=26214400", "bytes=50000000"))
    with running([node, str(program), "-c", str(folder)], log=folder / "log", ports=[]) as process:
        wait_until("Haraka listens", lambda: listens(port, HOST))
        yield Running(port, (process.pid,), folder / "log")


haraka = Peer("Haraka", _running)

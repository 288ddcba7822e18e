"""`python -m bench [NAME …] [options]`: the named tables, or all; `--help` tells the options.

W1 to W8 and `scaling` run relay and peers in turn, in a network of their own, and need root. The other tables
are about pieces of the relay and run anywhere.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import network
from bench.options import Options
from bench.site import running_site
from bench.table import Table

WORKLOADS = ("w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "scaling", "micro")
PIECES = {
    "idle": "KB of memory for an idle session, plain and after STARTTLS",
    "sign": "what a DKIM signature costs, in the event loop and in threads",
    "proof": "whether each peer does the work of W2 and W3: what it adds to a mail",
    "verify": "what verifying one RSA-2048 signature costs, beside the bare arithmetic and beside dkimpy",
    "waiting": "a relay with 100,000 messages in its queue: start, memory, answers to `relay queue`",
}


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description="Tables of docs/performance.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*WORKLOADS, *PIECES))}; default: all")
    parser.add_argument("--quick", action="store_true", help="under a minute a workload, fewer cases")
    parser.add_argument("--rounds", type=int, help="of each cell; default 5, with --quick 3")
    parser.add_argument("--workers", type=int, default=1, help="processes of the relay; default 1")
    parser.add_argument("--peers", nargs="+", default=[], metavar="WORD", help="only peers with WORD in their names")
    parser.add_argument("--json", metavar="FILE", help="write the workloads' tables as JSON; - for standard output")
    found = parser.parse_args(arguments)
    if unknown := [name for name in found.names if name not in (*WORKLOADS, *PIECES)]:
        parser.error(f"no such table: {', '.join(unknown)}")
    return found


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": f"{platform.python_version()} in {sys.base_prefix}",  # whose build it is makes 10 to 20 %
        "kernel": platform.release(),
    }


def main(arguments: list[str]) -> int:
    options = parsed(arguments)
    names = options.names or [*WORKLOADS, *PIECES]
    if any(name in (*WORKLOADS, "proof") for name in names):
        network.enter(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # peers end with their blocks
    text = sys.stderr if options.json == "-" else sys.stdout
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    about = machine()
    print(" · ".join(f"{name} {value}" for name, value in about.items()), file=text)
    rounds = options.rounds or (3 if options.quick else 5)
    given = Options(options.quick, rounds, 0.7 if options.quick else 2.0, options.workers, tuple(options.peers))
    tables: list[Table] = []
    for name in names:
        if name in PIECES:
            print(f"\n{name}: {PIECES[name]}\n", file=text, flush=True)
            importlib.import_module(f"bench.{name}").main()
            continue
        workload = importlib.import_module(f"bench.workloads.{name}")
        print(f"\n{name}: {workload.ABOUT}\n", file=text, flush=True)
        with running_site() as site:
            tables.append(workload.run(site, given))
        print("\n".join(tables[-1].lines()), file=text, flush=True)
    if options.json:
        document = json.dumps({**about, "tables": [table.as_json() for table in tables]}, indent=1)
        if options.json == "-":
            print(document)
        else:
            Path(options.json).write_text(document + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Prints the tables named on the command line, or all of them."""

from __future__ import annotations

import importlib
import sys

TABLES = {
    "proxied": "messages a second through the relay, beside the same load without it",
    "idle": "KB of memory for an idle session, plain and after STARTTLS",
    "sign": "what a DKIM signature costs, in the event loop and in threads",
    "verify": "what verifying one RSA-2048 signature costs, beside the bare arithmetic and beside dkimpy",
    "waiting": "a relay with 100,000 messages in its queue: start, memory, answers to `relay queue`",
}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in TABLES]:
        print(f"no such table: {', '.join(unknown)}. There are:", file=sys.stderr)
        print("".join(f"  {name:10}{what}\n" for name, what in TABLES.items()), end="", file=sys.stderr)
        return 2
    for name in names or TABLES:
        print(f"\n{name}: {TABLES[name]}\n", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m bench.reliability [R1 R6 …] [--quick]`: runs checks, prints each result, and writes docs/reliability.md.

Only the rows of what was run are written anew, each with its date and commit; `--quick` writes nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from bench.reliability.checks import CHECKS, Check
from bench.reliability.found import Found

PAGE = Path("docs/reliability.md")
_ROW = re.compile(r"^\| (R\d+) \|.*$", re.MULTILINE)


def main(arguments: list[str]) -> int:
    is_quick = "--quick" in arguments
    names = [argument for argument in arguments if argument != "--quick"]
    if unknown := [name for name in names if name not in CHECKS]:
        print(f"no such check: {', '.join(unknown)}. There are: {' '.join(CHECKS)}", file=sys.stderr)
        return 2
    failed = False
    for name in names or CHECKS:
        check = CHECKS[name]
        print(f"\n{name}: {check.title}", flush=True)
        found = run(name, check, is_quick)
        failed = failed or bool(found.faults)
        print(f"{name}: {found.word}: {found.figures}", *found.faults[:20], sep="\n", flush=True)
        if not is_quick:
            write(name, check, found)
    return int(failed)


def run(name: str, check: Check, is_quick: bool) -> Found:
    if not Path(f"bench/reliability/{name.lower()}.py").exists():
        return run_tests(check.tests)
    try:
        found: Found = asyncio.run(importlib.import_module(f"bench.reliability.{name.lower()}").run(is_quick))
    except AssertionError as error:
        return Found("it did not come to its end", [str(error)])
    return found


def run_tests(files: tuple[str, ...]) -> Found:
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "-n", "2", f"--junitxml={report.name}", *files]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        suites = ElementTree.parse(report.name).getroot().iter("testsuite") if ended.returncode in (0, 1) else []
        counts = {
            word: sum(int(one.get(word, 0)) for one in suites) for word in ("tests", "failures", "errors", "skipped")
        }
    faults = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if ended.returncode and not faults:
        faults = [ended.stdout[-2000:]]
    skipped = counts["skipped"]
    figures = f"{counts['tests'] - skipped} tests" + (f", {skipped} skipped for want of a peer" if skipped else "")
    return Found(figures, faults, is_short=bool(skipped))


def row(name: str, check: Check, found: Found | None, when: str) -> str:
    module = Path(f"bench/reliability/{name.lower()}.py")
    shown = ", ".join(f"`{file}`" for file in ([str(module)] if module.exists() else []) + [*check.tests])
    result, figures = (found.word, found.figures) if found else ("not run yet", "")
    return f"| {name} | {check.title} | {result} | {figures} | {when} | {shown} | {check.scaled} |"


def write(name: str, check: Check, found: Found) -> None:
    text, new = PAGE.read_text(), row(name, check, found, f"{datetime.now(UTC):%Y-%m-%d} {commit()}")
    there = next((old for old in _ROW.finditer(text) if old[1] == name), None)
    if there is None:
        raise SystemExit(f"{PAGE} has no row for {name}")
    PAGE.write_text(text[: there.start()] + new + text[there.end() :])


def commit() -> str:
    """Of the tree; with a + where `relay/` differs from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "relay"], capture_output=True, text=True).stdout
    return (head or "unknown") + ("+" if changed else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`make bench` on this machine: the peers start in their own network and do the work that is measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.peers import missing, require, require_root

ROOT = Path(__file__).parents[2]
PEERS = {
    "postfix": "postfix",
    "knotd": "knot",
    "opendkim": "opendkim",
    "opendmarc": "opendmarc",
    "policyd-spf": "postfix-policyd-spf-python",
    "ip": "iproute2",
    "unshare": "util-linux",
}
pytestmark = pytest.mark.xdist_group("bench")


@pytest.fixture(autouse=True)
def peers() -> None:
    require_root("unshare")
    for program, package in PEERS.items():
        require(program, package)
    isolated = ["unshare", "--net", "--mount", "true"]
    if shutil.which("unshare") and subprocess.run(isolated, capture_output=True, check=False).returncode:
        missing("this machine lets nobody make a network namespace")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)


def test_relay_and_postfix_sign_and_check() -> None:
    ran = bench("proof")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    done = [line for line in ran.stdout.splitlines() if line.endswith("does it")]
    for peer in ("relay", "Postfix, queue on disk", "Postfix, queue on RAM disk"):
        assert sum(peer in line for line in done) == 2, ran.stdout


def test_a_workload_gives_rates_and_ratios_as_json() -> None:
    ran = bench("w2", "--quick", "--rounds", "1", "--json", "-")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [table] = json.loads(ran.stdout)["tables"]
    rows = {(row["case"], row["peer"]): row for row in table["rows"]}
    for case in ("20 new", "20 reused"):
        rates = {
            peer: rows[case, peer]["metrics"]["delivered_per_s"]["median"]
            for peer in ("relay", "Postfix, queue on RAM disk")
        }
        ratio = rows[case, "Postfix, queue on RAM disk"]["relay_divided_by_it"]
        assert ratio == pytest.approx(rates["relay"] / rates["Postfix, queue on RAM disk"])
        assert rows[case, "relay"]["metrics"]["cpu_s_per_1000"]["median"] > 0


def test_an_unknown_table_is_named() -> None:
    ran = bench("w9")
    assert ran.returncode == 2
    assert "no such table: w9" in ran.stderr

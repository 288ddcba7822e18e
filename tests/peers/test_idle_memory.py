"""What an idle session costs the relay; `make bench ARGS=idle` measures the same with more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.idle import BARS, growth, tables
from tests.support.certificates import make_certificates
from tests.support.relay_process import running_relay

SESSIONS = 300  # fewer than 1024 descriptors


@pytest.mark.parametrize("kind", BARS)
def test_an_idle_session_costs_no_more_than_it_may(kind: str, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with running_relay(tmp_path / "relay", tables(certificates)) as relay:
        each = growth(relay, kind, SESSIONS, certificates.ca if kind == "STARTTLS" else None)
    assert each <= BARS[kind]

"""systemd/relay.service: what systemd says of it, and that the relay lives with all that it forbids."""

from __future__ import annotations

import os
import random
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.peers import PATIENCE, free_port, listens, require, wait_until
from tests.support.systemd import UNIT, Systemd, allowed_system_calls, running_systemd, skip_without_namespaces

pytestmark = pytest.mark.xdist_group("systemd")

MAIL = b"From: ann@example.org\r\nTo: bob@example.org\r\nSubject: hello\r\n\r\nhello\r\n"


def privileged_port() -> int:
    for port in random.sample(range(600, 1024), 400):  # others may be looking for one too
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port below 1024 is free")


def make_config(port: int, web: int, extra: str = "") -> str:
    """It signs (a thread), keeps (SQLite, its StateDirectory) and has a hop whose password is a credential."""
    return f"""\
hostname = "localhost"
web.port = {web}
{extra}
[listener.submission]
role = "submission"
port = {port}
allow = ["127.0.0.0/8"]
senders = ["@example.org"]
[domain.example]
name = "example.org"
key.rsa = {{ selector = "rsa1", file = "rsa1.pem", generate = true }}
[route.mailbox]
hop = "mailbox"
recipient_domain = ["elsewhere.example"]
[route.all]
hop = "inbox"
[hop.inbox]
kind = "inbox"
[hop.mailbox]
host = ["127.0.0.1"]
port = {free_port()}
tls = "none"
username = "relay"
"""


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        assert client.sendmail("ann@example.org", ["bob@example.org"], MAIL) == {}


def test_its_exposure_is_2_at_most() -> None:
    program = require("systemd-analyze", "systemd")
    run = subprocess.run(
        [program, "security", "--offline=true", "--threshold=20", str(UNIT)],  # in tenths
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_PAGER": ""},
    )
    assert run.returncode == 0, run.stdout[-500:] + run.stderr


def test_systemd_has_nothing_against_it(tmp_path: Path) -> None:
    program = require("systemd-analyze", "systemd")
    unit = tmp_path / "relay.service"
    unit.write_text(UNIT.read_text().replace("/opt/relay/bin/relay", "/bin/true"))
    run = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    unit.write_text(unit.read_text() + "Nonsense=1\n")
    assert (
        "Nonsense" in subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True).stderr
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_no_system_call_of_the_relay_is_forbidden(tmp_path: Path, workers: int) -> None:
    """A start, a mail that is signed and kept, a reload and a stop under strace."""
    strace = require("strace", "strace")
    require("systemd-analyze", "systemd")
    port, web = free_port(), free_port()
    config, counts = tmp_path / "relay.toml", tmp_path / "counts"
    config.write_text(make_config(port, web, f"workers = {workers}").replace('username = "relay"\n', ""))
    # -D: the relay is our child, and strace its bystander
    command = [strace, "-D", "-f", "-c", "-o", str(counts)]
    command += [sys.executable, "-m", "relay", "serve", "-c", str(config)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=log)
    try:
        wait_until("the relay listens", lambda: listens(port))
        send(port)
        process.send_signal(signal.SIGHUP)
        wait_until("it has reloaded", lambda: "config.reloaded" in (tmp_path / "log").read_text())
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    wait_until("strace has counted", lambda: counts.exists() and counts.read_text().rstrip().endswith("total"))
    used = {line.split()[-1] for line in counts.read_text().splitlines()[2:]} - {"total"}
    used = {name for name in used if not name.startswith("-")}
    assert {"socket", "listen", "fdatasync", "openat"} <= used
    allowed = allowed_system_calls()
    assert "mount" not in allowed
    # SQLite gives its files to the owner of the database, if it is root.
    assert used - allowed <= ({"fchown"} if os.geteuid() == 0 else set())


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    """Of the listener, which takes a capability, and of the health page."""
    return privileged_port(), free_port()


@pytest.fixture(scope="module", params=[1, 2])
def systemd(ports: tuple[int, int], request: pytest.FixtureRequest) -> Iterator[Systemd]:
    """With one worker, and with two under a supervisor."""
    require("systemd-analyze", "systemd")
    skip_without_namespaces()
    with running_systemd(make_config(*ports, f"workers = {request.param}")) as systemd:
        yield systemd


def test_the_relay_runs_under_it(systemd: Systemd, ports: tuple[int, int]) -> None:
    """It is active because it said READY=1; it read its credential, binds a low port, signs and keeps a mail."""
    send(ports[0])
    assert systemd.show("StatusText") == "taking mail"
    assert systemd.show("User") == "relay"
    assert "edit.signed" in systemd.log
    assert "inbox.stored" in systemd.log


def test_a_reload_goes_through_it(systemd: Systemd, ports: tuple[int, int]) -> None:
    good = systemd.config.read_text()
    for content, status in ((good + "nonsense", "rejected"), (good + "[limit]\nerrors = 5\n", "taking mail")):
        systemd.config.write_text(content)
        systemd.ctl("reload", "relay.service")
        wait_until(f"the relay says {status}", lambda status=status: status in systemd.show("StatusText").split(";")[0])  # type: ignore[misc]
        assert systemd.show("ActiveState") == "active"
        send(ports[0])


def test_a_relay_that_hangs_is_started_anew(systemd: Systemd, ports: tuple[int, int]) -> None:
    before = int(systemd.show("NRestarts"))
    systemd.ctl("kill", "--signal=STOP", "relay.service")
    wait_until("it was started anew", lambda: int(systemd.show("NRestarts")) == before + 1 and systemd.is_active())
    send(ports[0])


def test_it_stops_in_order(systemd: Systemd, ports: tuple[int, int]) -> None:
    systemd.ctl("stop", "relay.service")
    assert (systemd.show("ActiveState"), systemd.show("Result")) == ("inactive", "success")
    assert not listens(ports[0])
    assert systemd.log.rstrip().count("app.stopped") >= 1

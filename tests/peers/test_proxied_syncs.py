"""Promise 2: a proxied transaction costs no fsync, and what is queued costs one. Seen from the kernel."""

from __future__ import annotations

import re
import smtplib
import subprocess
from pathlib import Path

import pytest

from tests.support.clients import Transport
from tests.support.peers import require, wait_until
from tests.support.processes import children
from tests.support.relay_process import running_relay
from tests.support.smtp_sink import running_smtp_sink

MAILS = 20
MAIL = "From: ann@ours.org\r\nSubject: lunch\r\n\r\nhello\r\n"


@pytest.mark.parametrize("mode", ["proxy", "queue"])
def test_only_queued_mail_is_synced(tmp_path: Path, mode: str) -> None:
    strace, trace = require("strace", "strace"), tmp_path / "trace"
    with running_smtp_sink() as sink:
        tables = {
            "listener": {"in": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["@ours.org"]}},
            "route": {"all": {"hop": "out", "mode": mode}},
            "hop": {"out": {"host": ["127.0.0.1"], "port": sink.ports[Transport.PLAIN], "tls": "none"}},
        }
        with running_relay(tmp_path / "relay", tables) as relay, (tmp_path / "strace").open("wb") as said:
            processes = [relay.process.pid, *children(relay.process.pid)]  # with workers, those write
            command = [strace, "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", trace]
            command += [f"-p{process}" for process in processes]
            with subprocess.Popen(command, stderr=said) as tracer:
                told = tmp_path / "strace"
                wait_until("strace is there", lambda: told.read_text().count("attached") >= len(processes))
                with smtplib.SMTP("127.0.0.1", relay.ports["in"]) as client:
                    for _ in range(MAILS):
                        client.sendmail("ann@ours.org", "bob@theirs.org", MAIL)
                wait_until("all have arrived", lambda: len(sink.received()) == MAILS)
                tracer.terminate()
    syncs = [line for line in trace.read_text().splitlines() if re.search(r"\bf(?:data)?sync\(", line)]
    if mode == "proxy":
        assert syncs == []
    else:
        assert len(syncs) >= MAILS  # this client sends the next one after the 250, so none shares a sync

"""A greeting that comes after 25 seconds: no client gives up, and none speaks before it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.clients import SEND, Sent, Way
from tests.support.mail import make_mail, with_token
from tests.support.recorder import running_recorder
from tests.support.relay_process import running_relay

DELAY = 25


@pytest.mark.xdist_group("greeting delay")
def test_no_client_gives_up_during_a_greeting_delay(tmp_path: Path) -> None:
    """All wait at once, each as long as it does when nobody tells it how long."""
    certificates = make_certificates(tmp_path)
    mails = {name: make_mail(f"{name}@client.example", "bob@ours.example", b"hello\r\n") for name in SEND}

    def send(name: str, port: int) -> tuple[Sent, float]:
        folder, began = tmp_path / name, time.monotonic()
        folder.mkdir()
        return SEND[name](Way(port, certificates, patience=None), mails[name], folder), time.monotonic() - began

    with running_recorder() as recorder:
        tables = {
            "listener": {"gateway": {"role": "gateway", "domains": ["ours.example"]}},
            "hop": {"server": {"host": ["127.0.0.1"], "port": recorder.port, "tls": "none"}},
            "route": {"all": {"hop": "server"}},
            # Loopback is spared by default; the one that is spared here is not us.
            "delay": {"greeting": {"gateway": f"{DELAY}s"}, "early_talker": "refuse", "skip": ["192.0.2.0/24"]},
        }
        with running_relay(tmp_path / "relay", tables) as relay, ThreadPoolExecutor(len(SEND)) as threads:
            sending = {name: threads.submit(send, name, relay.ports["gateway"]) for name in SEND}
            sent = {name: one.result() for name, one in sending.items()}
        contents = [transaction.content for transaction in recorder.transactions]
    for name, (one, took) in sent.items():
        assert one.accepted, f"{name}:\n{one.transcript}"
        assert took >= DELAY, f"{name} was not held back"
        assert len(with_token(contents, mails[name].token)) == 1, name

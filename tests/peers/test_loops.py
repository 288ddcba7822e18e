"""Mail that goes in circles: each loop ends in session, after a few rounds or before the first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.haproxy import Way, running_haproxy
from tests.support.mail import make_mail
from tests.support.peers import PATIENCE, free_port
from tests.support.relay_process import RelayProcess, running_relay, to_toml
from tests.support.retrying import send_until_settled

pytestmark = pytest.mark.xdist_group("loops")

DOMAIN = "ours.example"
SENDER, RECIPIENT = "ann@client.example", f"bob@{DOMAIN}"
DATE = b"Sun, 22 Nov 2026 10:00:00 +0000"
LIMIT_OWN, LIMIT = 3, 10  # limit.received_own, limit.received


def tables(hostname: str, port: int, hop: int) -> dict[str, object]:
    return {
        "hostname": hostname,
        "listener": {"gateway": {"role": "gateway", "domains": [DOMAIN], "port": port}},
        "hop": {"next": {"host": ["127.0.0.1"], "port": hop, "tls": "none"}},
        "route": {"all": {"hop": "next"}},
        "limit": {"received_own": LIMIT_OWN, "received": LIMIT},
    }


def copies(relay: RelayProcess) -> int:
    """How often the relay has had the whole message."""
    return relay.log.count(" pipeline.answered ")


def assert_ended(relays: list[RelayProcess], reply: str, sender: str = SENDER) -> None:
    about = "\n".join([reply, *(relay.log for relay in relays)])
    assert reply.startswith("554 5.4.6"), about
    assert all(1 <= copies(relay) <= LIMIT_OWN + 1 for relay in relays), about
    # Nobody makes a report of it: the only reverse-path there ever was is the client's.
    assert all(set(re.findall(r" from=(\S+)", relay.log)) == {sender or "<>"} for relay in relays), about


@pytest.mark.parametrize("sender", [SENDER, ""], ids=["a mail", "a report"])
def test_two_relays_that_send_to_each_other(sender: str, tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    mail = make_mail(SENDER, RECIPIENT, b"hello\r\n")
    with (
        running_relay(tmp_path / "a", tables("a.example", first, second)) as a,
        running_relay(tmp_path / "b", tables("b.example", second, first)) as b,
    ):
        settled = send_until_settled(first, sender, [RECIPIENT], mail.content)
    assert settled.tries == 1
    assert_ended([a, b], settled.last[RECIPIENT], sender)


def test_a_load_balancer_that_leads_back_to_the_relay(tmp_path: Path) -> None:
    """What no check of a configuration can see. The next hop gives our own name, so that nothing is sent at all."""
    port, back = free_port(), free_port()
    mail = make_mail(SENDER, RECIPIENT, b"hello\r\n")
    with (
        running_haproxy({"back": Way(port, "127.0.0.1", version=0)}, ports={"back": back}),
        running_relay(tmp_path / "a", tables("a.example", port, back)) as relay,
    ):
        settled = send_until_settled(port, SENDER, [RECIPIENT], mail.content, tries=1)
    assert settled.last[RECIPIENT].startswith("451"), f"{settled}\n{relay.log}"
    assert copies(relay) == 1
    assert "the next hop is this relay, or bears its name" in relay.log


def test_a_name_that_changes_all_the_time_is_a_loop_by_its_length(tmp_path: Path) -> None:
    """The mail has come through as many servers as limit.received allows; none of them was ours."""
    port, hop = free_port(), free_port()
    trace = b"".join(b"Received: from a%d.example by b%d.example; %b\r\n" % (n, n, DATE) for n in range(LIMIT))
    mail = make_mail(SENDER, RECIPIENT, b"hello\r\n")
    with running_relay(tmp_path / "a", tables("a.example", port, hop)) as relay:
        settled = send_until_settled(port, SENDER, [RECIPIENT], trace + mail.content)
    assert_ended([relay], settled.last[RECIPIENT])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_relay_that_is_its_own_next_hop_does_not_start(host: str, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "relay.toml"
    given = tables("a.example", port, port)
    given["hop"] = {"next": {"host": [host], "port": port, "tls": "none"}}
    config.write_text(to_toml({**given, "data": tmp_path / "data", "web": {"port": free_port()}}))
    command = [sys.executable, "-m", "relay", "serve", "-c", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert ended.returncode == 2, ended
    assert "hop.next.host" in ended.stderr, ended

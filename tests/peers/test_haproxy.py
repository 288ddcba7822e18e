"""HAProxy before the relay, PROXY protocol 1 and 2: the relay knows the real client, and nobody comes round it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.certificates import Certificates, make_certificates
from tests.support.clients import SEND, Transport
from tests.support.haproxy import HAProxy, Way, running_haproxy
from tests.support.mail import make_mail, with_token
from tests.support.peers import wait_until
from tests.support.raw_client import raw_client
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import RelayProcess, running_relay

pytestmark = pytest.mark.xdist_group("haproxy")

OURS, OURS6, STRANGER = "192.0.2.7", "2001:db8::7", "198.51.100.9"
LOOPBACK = ["127.0.0.1", "::1", "::ffff:127.0.0.1"]
VERSIONS = (1, 2)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with running_recorder() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def relay(
    recorder: Recorder, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayProcess]:
    """Those of OURS may send; the load balancer itself, which is on loopback, may not."""
    tls = {"certificate": certificates.chain, "key": certificates.key}
    listener = {"role": "submission", "allow": [OURS, OURS6], "senders": ["*"], "proxy_from": ["127.0.0.1"]}
    tables = {
        "listener": {
            "plain": listener,
            "starttls": {**listener, "tls": "starttls", **tls},
            "implicit": {**listener, "tls": "implicit", **tls},
            "elsewhere": {**listener, "proxy_from": ["127.0.0.77"]},
            "gateway": {"role": "gateway", "domains": ["ours.example"], "proxy_from": ["127.0.0.1"]},
        },
        "hop": {"server": {"host": ["127.0.0.1"], "port": recorder.port, "tls": "none"}},
        "route": {"all": {"hop": "server"}},
        "limit": {"connections_per_ip": 2},
        "timeout": {"proxy": "1s"},
    }
    with running_relay(tmp_path_factory.mktemp("relay"), tables) as relay:
        yield relay


@pytest.fixture(scope="module")
def haproxy(relay: RelayProcess) -> Iterator[HAProxy]:
    ways = {}
    for version in VERSIONS:
        for transport in Transport:
            for who, source in {"ours": OURS, "ours6": OURS6, "stranger": STRANGER}.items():
                ways[f"{who}-{transport}-{version}"] = Way(relay.ports[transport], source, version)
        for number, source in enumerate(LOOPBACK):
            ways[f"loopback{number}-{version}"] = Way(relay.ports["gateway"], source, version)
        ways[f"gateway-{version}"] = Way(relay.ports["gateway"], STRANGER, version)
        ways[f"checked-{version}"] = Way(relay.ports["plain"], OURS, version, checked=True)
    ways["other"] = Way(relay.ports["gateway"], OURS)
    with running_haproxy(ways) as haproxy:
        yield haproxy


@pytest.mark.parametrize("who", ["ours", "ours6"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", list(Transport))
def test_the_relay_knows_the_real_client(
    transport: Transport,
    version: int,
    who: str,
    haproxy: HAProxy,
    relay: RelayProcess,
    recorder: Recorder,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """By permission, in the Received field and in the log."""
    mail = make_mail("ann@client.example", "bob@theirs.example", b"hello\r\n")
    way = clients.Way(haproxy.ports[f"{who}-{transport}-{version}"], certificates, transport)
    before = len(relay.log)
    sent = SEND["smtplib"](way, mail, tmp_path)
    about = f"{sent.transcript}\n{relay.log}"
    assert sent.accepted, about
    (arrived,) = with_token([transaction.content for transaction in recorder.transactions], mail.token)
    literal = f"[{OURS}]" if who == "ours" else f"[IPv6:{OURS6}]"
    assert literal.encode() in arrived.partition(b"\r\n\tby ")[0], arrived
    assert (OURS if who == "ours" else OURS6) in relay.log[before:], about


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", list(Transport))
def test_a_stranger_behind_the_load_balancer_is_one(
    transport: Transport, version: int, haproxy: HAProxy, certificates: Certificates, tmp_path: Path
) -> None:
    mail = make_mail("ann@client.example", "bob@theirs.example", b"hello\r\n")
    way = clients.Way(haproxy.ports[f"stranger-{transport}-{version}"], certificates, transport)
    sent = SEND["smtplib"](way, mail, tmp_path)
    assert not sent.accepted
    assert sent.refusal.startswith("5"), sent.transcript


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", range(len(LOOPBACK)), ids=LOOPBACK)
def test_a_client_that_claims_to_be_ourselves_is_refused(number: int, version: int, haproxy: HAProxy) -> None:
    with raw_client(haproxy.ports[f"loopback{number}-{version}"]) as client:
        assert not client.read().startswith("220")


@pytest.mark.parametrize("name", ["elsewhere", "plain"])
def test_who_comes_directly_is_refused(name: str, relay: RelayProcess) -> None:
    """`elsewhere` knows a load balancer that we are not; to `plain` we are it, but say nothing of a client."""
    with raw_client(relay.ports[name]) as client:
        client.send(b"EHLO client.example\r\n")
        replies = client.rest()
    assert not any(reply.startswith("2") for reply in replies), replies


def test_a_header_from_elsewhere_is_not_believed(relay: RelayProcess) -> None:
    with raw_client(relay.ports["elsewhere"]) as client:
        client.send(f"PROXY TCP4 {OURS} 127.0.0.1 4000 25\r\nEHLO client.example\r\n".encode())
        replies = client.rest()
    assert not any(reply.startswith("2") for reply in replies), replies


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_are_counted_by_client_not_by_load_balancer(version: int, haproxy: HAProxy) -> None:
    """connections_per_ip is 2; a stranger who uses them up is in nobody else's way."""
    crowded = haproxy.ports[f"gateway-{version}"]
    with raw_client(crowded) as first, raw_client(crowded) as second:
        assert first.read().startswith("220") and second.read().startswith("220")
        with raw_client(crowded) as third:
            assert third.read().startswith("421")
        with raw_client(haproxy.ports["other"]) as other:
            assert other.read().startswith("220")


@pytest.mark.parametrize("version", VERSIONS)
def test_health_checks_find_it_healthy_and_are_no_trouble(
    version: int, haproxy: HAProxy, relay: RelayProcess, certificates: Certificates, tmp_path: Path
) -> None:
    """Those of version 2 say LOCAL and go as far as EHLO. Those of version 1 name the balancer, which is us here."""
    name = f"checked-{version}"
    wait_until("HAProxy has checked the relay", lambda: haproxy.health(name) not in ("", "INI"))
    assert haproxy.health(name) == ("L4OK" if version == 1 else "L7OK"), relay.log
    mail = make_mail("ann@client.example", "bob@theirs.example", b"hello\r\n")
    sent = SEND["smtplib"](clients.Way(haproxy.ports[name], certificates), mail, tmp_path)
    assert sent.accepted, f"{sent.transcript}\n{haproxy.log}\n{relay.log}"
    assert f"Server {name}/relay is DOWN" not in haproxy.log
    assert "Z error " not in relay.log, relay.log

"""Canaries: each secret the relay is given is then looked for in all that others may see of it.

Passwords (clients' and its own), AUTH blobs and the body must not be in the log at its most talkative, in
the metrics, on the command line, or in a reply, whatever goes wrong.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from tests.support.certificates import Certificates, make_certificates
from tests.support.clients import SEND, Auth, Transport, Way
from tests.support.dovecot import Dovecot, running_dovecot
from tests.support.mail import make_mail
from tests.support.raw_client import raw_client
from tests.support.relay_process import RelayProcess, running_relay
from tests.support.smtp_sink import running_smtp_sink

pytestmark = pytest.mark.xdist_group("secrets")

CLIENT_PASSWORD = "canary-client-Xq7L"
WRONG_PASSWORD = "canary-wrong-m2Rt"
HOP_PASSWORD = "canary-hop-V8sd"
BODY = "canary-body-pW3k"


def disguises(secret: str) -> list[str]:
    """`secret` as it might be written somewhere: plain, and in base64 at each of the three alignments."""
    shifted = [b64encode(b"\0" * shift + secret.encode()).decode() for shift in range(3)]
    return [secret, *(blob[(shift * 4 + 2) // 3 : -4] for shift, blob in enumerate(shifted))]


def tables(folder: Path, certificates: Certificates, hop: dict[str, object]) -> dict[str, object]:
    logins = folder / "logins"
    logins.touch(mode=0o600)
    digest = PasswordHasher(time_cost=1, memory_cost=8192).hash(CLIENT_PASSWORD)
    logins.write_text(f"ann: {digest} @client.example\n")
    tls = {"certificate": certificates.chain, "key": certificates.key}
    return {
        "listener": {
            "plain": {"role": "submission", "allow_plaintext_login": True},
            "starttls": {"role": "submission", "tls": "starttls", **tls},
        },
        "hop": {"server": hop},
        "route": {"all": {"hop": "server"}},
        "login": {"file": logins},
        "log": {"level": "debug", "format": "json"},
    }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    with running_dovecot(certificates) as dovecot:
        yield dovecot


def assert_no_canary(relay: RelayProcess, said: str, *others: str) -> None:
    """`said`: what the relay answered its clients."""
    seen = {
        "log": relay.log,
        "metrics": relay.get("/metrics")[1],
        "readyz": relay.get("/readyz")[1],
        "command line": relay.arguments.decode(),
        "replies": said,
    }
    assert all(seen.values())
    digest = "$argon2id$"
    for secret in (CLIENT_PASSWORD, WRONG_PASSWORD, HOP_PASSWORD, BODY, *others):
        for disguise in disguises(secret):
            assert [place for place, text in seen.items() if disguise in text] == [], (secret, disguise)
    assert [place for place, text in seen.items() if digest in text] == []


def run_clients(relay: RelayProcess, certificates: Certificates, folder: Path) -> str:
    """Good and bad logins, good, bad and broken messages. Returns all replies."""
    said = []
    for client in ("smtplib", "swaks"):
        for password in (CLIENT_PASSWORD, WRONG_PASSWORD):
            for auth in (Auth.PLAIN, Auth.LOGIN):
                mail = make_mail("ann@client.example", "bob@dovecot.example", BODY.encode() + b"\r\n")
                way = Way(relay.ports["starttls"], certificates, Transport.STARTTLS, auth, ("ann", password))
                said.append(SEND[client](way, mail, folder).refusal)
    good = b64encode(f"\0ann\0{CLIENT_PASSWORD}".encode())
    wrong = b64encode(f"\0ann\0{WRONG_PASSWORD}".encode())
    conversations = [
        [b"AUTH PLAIN " + wrong, b"AUTH PLAIN " + wrong + b"!", b"AUTH CRAM-MD5 " + wrong, b"AUTH " + wrong],
        [b"AUTH LOGIN", b64encode(b"ann"), b64encode(WRONG_PASSWORD.encode())],
        [b"AUTH LOGIN", b"*", b64encode(WRONG_PASSWORD.encode()), WRONG_PASSWORD.encode()],
        [b"AUTH PLAIN " + good, b"AUTH PLAIN " + good],  # the second one is out of order
        [b"PASS " + WRONG_PASSWORD.encode(), b"AUTH PLAIN =", wrong],
        [
            b"AUTH PLAIN " + good,
            b"MAIL FROM:<ann@client.example>",
            b"RCPT TO:<bob@dovecot.example>",
            b"DATA",
            b"From: ann@client.example\r\n\r\n" + BODY.encode() + b"\n.\n\r\n.",  # refused: bare newline
            b"MAIL FROM:<ann@client.example>",
            b"RCPT TO:<bob@dovecot.example>",
            b"DATA",
            b"From: ann@client.example\r\n" + BODY.encode() + b"\r\n\r\n.",  # refused: not a header field
            b"QUIT",
        ],
    ]
    for lines in conversations:
        with raw_client(relay.ports["plain"]) as client:
            client.read()
            client.say(b"EHLO client.example")
            for line in lines:
                if not client.say(line):
                    break
            said += client.replies
    return "\n".join(said)


def test_no_secret_is_seen_while_mail_goes_through(
    certificates: Certificates, dovecot: Dovecot, tmp_path: Path
) -> None:
    hop: dict[str, object] = {"host": ["localhost"], "port": dovecot.ports[Transport.PLAIN], "tls": "required"}
    hop |= {"ca": certificates.ca, "username": dovecot.login[0], "password": dovecot.login[1]}
    with running_relay(tmp_path / "relay", tables(tmp_path, certificates, hop)) as relay:
        said = run_clients(relay, certificates, tmp_path)
        assert len(dovecot.received()) == 4
        assert_no_canary(relay, said, dovecot.login[1])


def test_no_secret_is_seen_when_the_next_hop_refuses_the_relays_login(
    certificates: Certificates, dovecot: Dovecot, tmp_path: Path
) -> None:
    """535 from the next hop is our own trouble: the client gets 451 and no word of it."""
    hop: dict[str, object] = {"host": ["localhost"], "port": dovecot.ports[Transport.IMPLICIT], "tls": "implicit"}
    hop |= {"ca": certificates.ca, "username": "relay", "password": HOP_PASSWORD}
    before = len(dovecot.received())
    with running_relay(tmp_path / "relay", tables(tmp_path, certificates, hop)) as relay:
        said = run_clients(relay, certificates, tmp_path)
        assert len(dovecot.received()) == before
        assert "451" in said
        assert_no_canary(relay, said)


def test_no_secret_is_seen_when_the_next_hop_fails(certificates: Certificates, tmp_path: Path) -> None:
    with running_smtp_sink("-q", "DATA") as sink:  # it hangs up at DATA
        hop: dict[str, object] = {"host": ["127.0.0.1"], "port": sink.ports[Transport.PLAIN], "tls": "none"}
        hop |= {"username": "relay", "password": HOP_PASSWORD}
        with running_relay(tmp_path / "relay", tables(tmp_path, certificates, hop)) as relay:
            said = run_clients(relay, certificates, tmp_path)
            assert "451" in said
            assert_no_canary(relay, said)


def test_the_hunt_finds_what_it_hunts() -> None:
    """A canary in plain text and in any base64 blob is caught by one of its disguises."""
    for prefix in ("", "a", "ab"):
        blob = b64encode(f"{prefix}{CLIENT_PASSWORD}zz".encode()).decode()
        assert any(disguise in blob for disguise in disguises(CLIENT_PASSWORD)[1:])
    assert CLIENT_PASSWORD in disguises(CLIENT_PASSWORD)

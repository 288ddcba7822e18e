"""Real clients through the relay to real servers: what they get, and what arrives, is as if the relay were not there.

The rows are pairwise over client, transport, login, content, pipelining and server. What a row expects is
measured, not written down: the same client sends the same mail straight to the same server, by the nearest
way that the server has. The relay may differ in one point: mail that needs SMTPUTF8 for a server
without it is 550 5.6.7 (RFC 6531 §3.1).
"""

from __future__ import annotations

import random
from base64 import encodebytes
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from tests.support.certificates import Certificates, make_certificates
from tests.support.clients import CANNOT, SEND, Auth, Transport, Way
from tests.support.dovecot import Dovecot, running_dovecot
from tests.support.mail import Mail, make_mail, split, with_token
from tests.support.pairwise import Row, pairwise
from tests.support.postfix import Postfix, running_postfix
from tests.support.relay_process import RelayProcess, running_relay
from tests.support.smtp_sink import SmtpSink, running_smtp_sink

Server = Postfix | SmtpSink | Dovecot

LOGIN = ("ann", "matrix-canary-9fWq")
SENDER, SENDER_UTF8 = "ann@client.example", "änn@client.example"

BODIES = {
    "ascii": b"Hello,\r\n\r\nthis is a mail.\r\n",
    "8bit": b"".join(bytes(range(at, at + 32)) + b"\r\n" for at in range(0x80, 0x100, 32)),  # no UTF-8 at all
    "utf8": "Grüße\r\n".encode(),
    "10MB": encodebytes(random.Random(10).randbytes(7_400_000)).replace(b"\n", b"\r\n"),
    "dots": b".\r\n..\r\n...\r\n.dot\r\n\r\n.\r\n. \r\n" + b"." * 998 + b"\r\nend\r\n",  # RFC 5321 §4.5.2
    "no final newline": b"first\r\nlast",
}


def possible(row: Row) -> bool:
    client, _ = row["parties"].split(" to ")
    return not any((client, value) in CANNOT for value in row.values())


ROWS = pairwise(
    {
        # Client and server are one dimension, so each client meets each server with each feature it has.
        "parties": [f"{client} to {server}" for client in SEND for server in ("postfix", "sink", "dovecot")],
        "content": list(BODIES),
        "transport": list(Transport),
        "auth": list(Auth),
        "commands": ["stepwise", "pipelining"],
    },
    possible,
)


def write_mail(row: Row, domain: str) -> Mail:
    if row["content"] == "utf8":
        return make_mail(SENDER_UTF8, f"bøb@{domain}", BODIES["utf8"], subject="Grüße", charset="utf-8")
    return make_mail(SENDER, f"bob@{domain}", BODIES[row["content"]], charset="iso-8859-1")


def straight(row: Row, server: Server, certificates: Certificates) -> Way:
    """The nearest way to what the row asks for that `server` itself has."""
    transport = Transport(row["transport"])
    if transport not in server.ports:
        transport = Transport.PLAIN
    auth = Auth.NONE if server.login is None else Auth(row["auth"])
    if server.login is not None and auth is Auth.NONE:
        auth = Auth.PLAIN
    pipelining = row["commands"] == "pipelining"
    return Way(server.ports[transport], certificates, transport, auth, server.login or ("", ""), pipelining)


def through(row: Row, relay: RelayProcess, certificates: Certificates) -> Way:
    transport = Transport(row["transport"])
    pipelining = row["commands"] == "pipelining"
    return Way(relay.ports[transport], certificates, transport, Auth(row["auth"]), LOGIN, pipelining)


def relay_tables(server: Server, certificates: Certificates, folder: Path) -> dict[str, object]:
    """A relay that takes mail in all the ways of the rows and has `server` as its one next hop."""
    logins = folder / "logins"
    logins.touch(mode=0o600)
    digest = PasswordHasher(time_cost=1, memory_cost=8192).hash(LOGIN[1])
    logins.write_text(f"{LOGIN[0]}: {digest} @client.example\n")
    tls = {"certificate": certificates.chain, "key": certificates.key}
    listener = {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}
    hop: dict[str, object] = {"host": ["localhost"], "port": server.ports[Transport.PLAIN], "tls": "none"}
    if server.login is not None:
        hop |= {"tls": "required", "ca": certificates.ca, "username": server.login[0], "password": server.login[1]}
    keys = {
        "rsa": {"selector": "r1", "file": folder / "rsa.pem", "generate": True},
        "ed25519": {
            "selector": "e1",
            "file": folder / "ed25519.pem",
            "algorithm": "ed25519-sha256",
            "generate": True,
        },
    }
    return {
        "listener": {
            "plain": {**listener, "allow_plaintext_login": True},
            "starttls": {**listener, "tls": "starttls", **tls},
            "implicit": {**listener, "tls": "implicit", **tls},
        },
        "hop": {"server": hop},
        "route": {"all": {"hop": "server"}},
        "domain": {"client": {"name": "client.example", "key": keys}},
        "login": {"file": logins},
    }


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with ExitStack() as stack:
        yield Bed(tmp_path_factory.mktemp("matrix"), stack)


class Bed:
    """The servers and the relay before each, started when the first row asks for them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.certificates = make_certificates(folder)
        self._folder = folder
        self._stack = stack
        self._servers: dict[str, tuple[Server, RelayProcess]] = {}

    def __getitem__(self, name: str) -> tuple[Server, RelayProcess]:
        if name not in self._servers:
            context = {
                "postfix": lambda: running_postfix(self.certificates),
                "sink": running_smtp_sink,
                "dovecot": lambda: running_dovecot(self.certificates),
            }[name]()
            server = self._stack.enter_context(context)
            folder = self._folder / name
            folder.mkdir(exist_ok=True)
            tables = relay_tables(server, self.certificates, folder)
            self._servers[name] = server, self._stack.enter_context(running_relay(folder, tables))
        return self._servers[name]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.xdist_group(row["parties"].split(" to ")[1])) for row in ROWS],
    ids=[", ".join(row.values()).replace("none", "no login") for row in ROWS],
)
def test_mail_through_the_relay_fares_as_mail_sent_straight_to_the_server(row: Row, bed: Bed, tmp_path: Path) -> None:
    client, name = row["parties"].split(" to ")
    server, relay = bed[name]
    send = SEND[client]
    straight_mail, mail = write_mail(row, server.domain), write_mail(row, server.domain)
    expected = send(straight(row, server, bed.certificates), straight_mail, tmp_path)
    got = send(through(row, relay, bed.certificates), mail, tmp_path)
    about = (
        f"\n--- straight\n{expected.transcript}\n--- through the relay\n{got.transcript}\n--- log\n{relay.log[-4000:]}"
    )

    received = server.received()
    arrived = with_token(received, mail.token)
    if mail.utf8 and not server.smtputf8 and " 5.6.7 " in got.refusal:
        assert not arrived, about
        return
    assert got.accepted == expected.accepted, about
    assert got.refusal[:3] == expected.refusal[:3], about
    assert len(arrived) == (1 if got.accepted else 0), about
    if got.accepted:
        assert_same_mail(with_token(received, straight_mail.token)[0], straight_mail)
        assert_same_mail(arrived[0], mail)


def assert_same_mail(arrived: bytes, mail: Mail) -> None:
    """All fields are there, unchanged and in their order; the body is the body that was sent, by hash."""
    sent_fields, sent_body = split(mail.content)
    if not sent_body.endswith(b"\r\n"):
        sent_body += b"\r\n"  # RFC 5321 §4.1.1.4: the CRLF before the dot belongs to the content
    fields, body = split(arrived)
    assert sha256(body).digest() == sha256(sent_body).digest()
    assert [field for field in fields if field in sent_fields] == sent_fields


def test_each_client_meets_each_server_with_each_feature_it_has() -> None:
    for feature in ("content", "transport", "auth", "commands"):
        tried = {(row["parties"], row[feature]) for row in ROWS}
        missed = {
            (client, value)
            for client in SEND
            for server in ("postfix", "sink", "dovecot")
            for value in {row[feature] for row in ROWS}
            if (f"{client} to {server}", value) not in tried
        }
        assert missed <= set(CANNOT)

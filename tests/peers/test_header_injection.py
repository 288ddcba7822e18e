"""Line ends in what a client says of itself: no new header field, command, reply line or log line comes of it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress

import pytest
from argon2 import PasswordHasher

from tests.support.mail import make_mail, split, with_token
from tests.support.raw_client import RawClient, raw_client
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import RelayProcess, running_relay

pytestmark = pytest.mark.xdist_group("header injection")

EVIL = b"X-Evil: 1"
LINE_ENDS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\r",
    b"\0\n",
    b"\r\n ",
    b"\n\t",
    b"\x0b",
    b"\x0c",
    b"\x85",
    "\x85\u2028".encode(),
]
TRAILS = [b"a.example" + end + EVIL for end in LINE_ENDS] + [
    b"a.example) by evil.example (",
    b"a.example (;",
    b'a.example"',
    b"[192.0.2.7]" + b"\x0b" + EVIL,
    b"a" * 400 + b".example",
    b"=?utf-8?q?a=0D=0AX-Evil:_1?=",
    b"%0d%0a" + EVIL,
]
LOGIN = ("ann", "injection-canary")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with running_recorder() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def relay(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("relay")
    logins = folder / "logins"
    logins.touch(mode=0o600)
    logins.write_text(f"{LOGIN[0]}: {PasswordHasher(time_cost=1, memory_cost=8192).hash(LOGIN[1])} *\n")
    submission = {"role": "submission", "allow": ["127.0.0.0/8", "192.0.2.0/24"], "senders": ["*"]}
    tables = {
        "listener": {
            "submission": {**submission, "allow_plaintext_login": True},
            "gateway": {"role": "gateway", "domains": ["theirs.example"]},
            "proxied": {**submission, "proxy_from": ["127.0.0.1"]},
        },
        "hop": {"server": {"host": ["127.0.0.1"], "port": recorder.port, "tls": "none"}},
        "route": {"all": {"hop": "server"}},
        "limit": {"login_failures": 100, "errors": 100},
        "delay": {"error_after": 100},
        "login": {"file": logins},
        "timeout": {"proxy": "1s"},
    }
    with running_relay(folder, tables) as relay:
        yield relay


@pytest.fixture(autouse=True)
def nothing_evil(relay: RelayProcess, recorder: Recorder) -> Iterator[None]:
    """Whatever was said: no line that anybody reads begins with it, nor does any character make two lines of one."""
    yield
    for name, said in (("wire", recorder.wire), ("log", relay.log.encode())):
        lines = re.split(rb"[\r\n\x0b\x0c\x85\0]|\xe2\x80\xa8", said)
        assert not [line for line in lines if line.lstrip().lower().startswith(b"x-evil")], name


def send(
    client: RawClient, *, mail: bytes = b"FROM:<ann@ours.example>", rcpt: bytes = b"TO:<bob@theirs.example>"
) -> str:
    """A mail with all commands at once, so that no reply is waited for that may not come; its token."""
    made = make_mail("ann@ours.example", "bob@theirs.example", b"hello\r\n")
    with suppress(ConnectionError):  # it has hung up already
        client.send(b"MAIL " + mail + b"\r\nRCPT " + rcpt + b"\r\nDATA\r\n" + made.content + b".\r\nQUIT\r\n")
    for reply in client.rest():
        assert all(re.match(r"[2-5]\d\d[ -]", line) for line in reply.split("\n")), reply
    return made.token


def assert_no_new_field(recorder: Recorder, token: str, expected: int | None = None) -> None:
    """If it arrived at all, then with the fields that were sent and one Received. expected: how many arrived."""
    arrived = with_token([transaction.content for transaction in recorder.transactions], token)
    assert len(arrived) <= 1 if expected is None else len(arrived) == expected
    for message in arrived:
        names = [field.partition(b":")[0] for field in split(message)[0]]
        sent = make_mail("ann@ours.example", "bob@theirs.example", b"").content
        assert names == [b"Received", *(field.partition(b":")[0] for field in split(sent)[0])]


@pytest.mark.parametrize("listener", ["submission", "gateway"])
@pytest.mark.parametrize("verb", [b"EHLO", b"HELO"])
@pytest.mark.parametrize("name", TRAILS, ids=repr)
def test_a_hello(name: bytes, verb: bytes, listener: str, relay: RelayProcess, recorder: Recorder) -> None:
    with raw_client(relay.ports[listener]) as client:
        client.read()
        client.send(verb + b" " + name + b"\r\nHELO fallback.example\r\n")
        token = send(client)
    assert_no_new_field(recorder, token)


@pytest.mark.parametrize("trail", TRAILS, ids=repr)
@pytest.mark.parametrize(
    "path",
    [
        b"FROM:<ann@%b>",
        b'FROM:<"%b"@ours.example>',
        b"FROM:<%b@ours.example> SMTPUTF8",
        b"FROM:<@%b:ann@ours.example>",
        b"FROM:<ann@ours.example> AUTH=%b",
        b"FROM:<ann@ours.example> AUTH=+0D+0A%b",
        b"FROM:<ann@ours.example> RET=HDRS ENVID=+0D+0A%b",
        b"FROM:<ann@ours.example> ENVID=%b",
        b"FROM:<ann@ours.example> BODY=%b",
        b"FROM:<ann@ours.example> SIZE=1%b",
    ],
    ids=repr,
)
def test_a_mail_command(path: bytes, trail: bytes, relay: RelayProcess, recorder: Recorder) -> None:
    with raw_client(relay.ports["submission"]) as client:
        client.read()
        client.say(b"EHLO client.example")
        token = send(client, mail=path % trail)
    assert_no_new_field(recorder, token)


@pytest.mark.parametrize("trail", TRAILS, ids=repr)
@pytest.mark.parametrize(
    "path",
    [
        b"TO:<bob@%b>",
        b'TO:<"%b"@theirs.example>',
        b"TO:<bob@theirs.example> ORCPT=rfc822;%b",
        b"TO:<bob@theirs.example> ORCPT=rfc822;+0D+0A%b",
        b"TO:<bob@theirs.example> NOTIFY=NEVER,%b",
    ],
    ids=repr,
)
def test_a_recipient(path: bytes, trail: bytes, relay: RelayProcess, recorder: Recorder) -> None:
    with raw_client(relay.ports["submission"]) as client:
        client.read()
        client.say(b"EHLO client.example")
        token = send(client, rcpt=path % trail)
    assert_no_new_field(recorder, token)


@pytest.mark.parametrize("trail", TRAILS, ids=repr)
@pytest.mark.parametrize("way", ["PLAIN", "PLAIN authorize", "LOGIN", "bare"])
def test_a_login_name(way: str, trail: bytes, relay: RelayProcess, recorder: Recorder) -> None:
    """A login that fails, with the name in it, and then a mail."""
    password = LOGIN[1].encode()
    with raw_client(relay.ports["submission"]) as client:
        client.read()
        client.say(b"EHLO client.example")
        if way == "PLAIN":
            client.send(b"AUTH PLAIN " + b64encode(b"\0" + LOGIN[0].encode() + trail + b"\0" + password) + b"\r\n")
        elif way == "PLAIN authorize":
            client.send(b"AUTH PLAIN " + b64encode(trail + b"\0" + LOGIN[0].encode() + b"\0" + password) + b"\r\n")
        elif way == "LOGIN":
            client.send(b"AUTH LOGIN " + b64encode(trail) + b"\r\n" + b64encode(password) + b"\r\n")
        else:
            client.send(b"AUTH PLAIN " + trail + b"\r\n")
        token = send(client)
    assert_no_new_field(recorder, token)


@pytest.mark.parametrize("trail", TRAILS, ids=repr)
@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.7%b 127.0.0.1 4000 25\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 25%b\r\n",
        b"PROXY TCP6 2001:db8::7%%%b ::1 4000 25\r\n",
        b"PROXY UNKNOWN %b\r\n",
    ],
    ids=repr,
)
def test_a_proxy_header(header: bytes, trail: bytes, relay: RelayProcess, recorder: Recorder) -> None:
    with raw_client(relay.ports["proxied"]) as client:
        client.send(header % trail.removeprefix(b"a.example") + b"EHLO client.example\r\n")
        token = send(client)
    assert_no_new_field(recorder, token)


def test_plain_words_are_not_taken_for_an_attack(relay: RelayProcess, recorder: Recorder) -> None:
    """The same ways, without line ends, so that the tests above have something to find."""
    with raw_client(relay.ports["proxied"]) as client:
        client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 25\r\nEHLO x-evil\r\n")
        token = send(client, mail=b"FROM:<x-evil@ours.example> SIZE=100", rcpt=b"TO:<x-evil@theirs.example>")
    assert_no_new_field(recorder, token, expected=1)
    assert b"<x-evil@ours.example>" in recorder.wire

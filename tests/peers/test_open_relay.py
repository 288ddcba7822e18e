"""An outsider tries every known way to make the relay carry mail for others: none is taken, nothing leaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.raw_client import raw_client
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import HOSTNAME, RelayProcess, running_relay

pytestmark = pytest.mark.xdist_group("open relay")

OURS = "ours.example"

# The mailbox elsewhere is victim@other.example; everything else is dressing.
FORWARD_PATHS = [
    b"<victim@other.example>",
    b"<victim%other.example@ours.example>",  # percent hack
    b"<victim%other.example@relay.example>",
    b"<victim%other.example>",
    b"<victim%other.example@[127.0.0.1]>",
    b"<other.example!victim@ours.example>",  # bang path
    b"<other.example!victim>",
    b"<other.example!victim@relay.example>",
    b"<ours.example!other.example!victim>",
    b"<@ours.example:victim@other.example>",  # source route, RFC 5321 appendix C
    b"<@relay.example,@ours.example:victim@other.example>",
    b"<@other.example:bob@ours.example>",
    b'<"victim@other.example"@ours.example>',  # quoted local part
    b'<"victim@other.example">',
    b'<"victim%other.example"@ours.example>',
    b'<"other.example!victim"@ours.example>',
    b'<"\\victim\\@other.example"@ours.example>',
    b"<victim@other.example@ours.example>",
    b"<bob@ours.example@other.example>",
    b"<bob@ours.example,victim@other.example>",  # two addresses in one
    b"<bob@ours.example> <victim@other.example>",
    b"<bob@ours.example;victim@other.example>",
    b"<bob@ours.example(other.example>",
    b"<victim@other.example(@ours.example>",
    b"<victim@other.example\x00@ours.example>",  # NUL, CR and LF in an address
    b"<victim@other.example\x00.ours.example>",
    b"<victim@other.example\r@ours.example>",
    b"<victim@other.example\n@ours.example>",
    b"<victim@other.example\r\nRCPT TO:<victim@other.example>",
    b"<victim@[127.0.0.1]>",  # address literals
    b"<victim@[192.0.2.1]>",
    b"<victim@[IPv6:::1]>",
    b"<victim@127.0.0.1>",
    b"<victim@localhost>",
    b"<victim@relay.example>",
    b"<victim@>",
    b"<victim>",
    b"<victim@ours.example.>",  # trailing dots
    b"<victim@other.example.>",
    b"<victim@.ours.example>",
    b"<victim@sub.ours.example>",  # look-alikes
    b"<victim@notours.example>",
    b"<victim@ours.example.other.example>",
    b"<victim@ours-example>",
    b"<victim@ours.examplee>",
    b"<victim@other.example#ours.example>",
    b"<victim@other.example/ours.example>",
    "<victim@оurs.example>".encode(),  # the first letter is Cyrillic
    b"victim@other.example",  # not in brackets
    b"bob@ours.example",
    b"<victim@other.example> ORCPT=rfc822;bob@ours.example",
    b"<victim@other.example> NOTIFY=NEVER",
    b"<>",
]
assert f"@{HOSTNAME}" == "@relay.example"

# Reverse-paths that some relays believe.
REVERSE_PATHS = [b"<>", b"<bob@ours.example>", b"<root@relay.example>", b"<root@localhost>", b"<a@[127.0.0.1]>"]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with running_recorder() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def relay(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    tables = {
        "listener": {
            "gateway": {"role": "gateway", "domains": [OURS]},
            # To this one the test is an outsider, whose network is not 192.0.2.0/24.
            "submission": {"role": "submission", "allow": ["192.0.2.0/24"], "senders": ["*"]},
            "submission6": {"role": "submission", "host": "::1", "allow": ["127.0.0.0/8"], "senders": ["*"]},
        },
        "hop": {"server": {"host": ["127.0.0.1"], "port": recorder.port, "tls": "none"}},
        "route": {"all": {"hop": "server"}},
    }
    with running_relay(tmp_path_factory.mktemp("relay"), tables) as relay:
        yield relay


@pytest.fixture
def nothing_leaves(recorder: Recorder) -> Iterator[None]:
    """Not even a RCPT reaches the next hop."""
    before = recorder.wire.upper().count(b"RCPT")
    yield
    assert recorder.wire.upper().count(b"RCPT") == before


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize("path", FORWARD_PATHS, ids=repr)
def test_a_stranger_finds_no_recipient_elsewhere(path: bytes, relay: RelayProcess) -> None:
    with raw_client(relay.ports["gateway"]) as client:
        client.read()
        client.say(b"EHLO ours.example")
        assert client.say(b"MAIL FROM:<ann@client.example> SMTPUTF8").startswith("250")
        client.send(b"RCPT TO:" + path + b"\r\nDATA\r\nQUIT\r\n")
        replies = client.rest()
    assert all(not reply.startswith(("250", "251", "354")) for reply in replies), replies
    assert replies[0].startswith("5"), replies


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize("path", REVERSE_PATHS, ids=repr)
def test_no_reverse_path_makes_a_stranger_one_of_us(path: bytes, relay: RelayProcess) -> None:
    with raw_client(relay.ports["gateway"]) as client:
        client.read()
        client.say(b"EHLO relay.example")
        client.send(b"MAIL FROM:" + path + b"\r\nRCPT TO:<victim@other.example>\r\nDATA\r\nQUIT\r\n")
        replies = client.rest()
    assert replies[1].startswith("550 5.7.1"), replies
    assert replies[2].startswith(("503", "554")), replies


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize("name", ["submission", "submission6"])
def test_a_stranger_may_not_submit(name: str, relay: RelayProcess) -> None:
    with raw_client(relay.ports[name], "::1" if name == "submission6" else "127.0.0.1") as client:
        client.read()
        client.say(b"EHLO ours.example")
        client.send(b"MAIL FROM:<bob@ours.example>\r\nRCPT TO:<victim@other.example>\r\nDATA\r\nQUIT\r\n")
        replies = client.rest()
    assert all(reply.startswith("5") for reply in replies[:3]), replies


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 25",  # haproxy's PROXY protocol, version 1
        b"XCLIENT ADDR=192.0.2.7 NAME=mail.ours.example LOGIN=ann",  # Postfix's XCLIENT
        b"XFORWARD ADDR=192.0.2.7 SOURCE=LOCAL",
        b"EHLO [192.0.2.7]",
        b"HELO localhost",
        b"ETRN other.example",
        b"AUTH PLAIN AGFubgBhbm4=",
    ],
    ids=lambda line: line.split()[0].decode(),
)
def test_a_forged_identity_is_not_believed(line: bytes, relay: RelayProcess) -> None:
    """192.0.2.7 would be let in by the submission listener."""
    with raw_client(relay.ports["submission"]) as client:
        client.read()
        client.say(line)
        client.send(b"EHLO a.example\r\nMAIL FROM:<bob@ours.example>\r\nRCPT TO:<victim@other.example>\r\nQUIT\r\n")
        replies = client.rest()
    assert all(not reply.startswith("2") for reply in replies[1:3]), replies


def test_a_good_recipient_opens_no_door_for_the_next(recorder: Recorder, relay: RelayProcess) -> None:
    """The mail for our own domain goes on to our own domain and to nobody else."""
    before = len(recorder.transactions)
    with raw_client(relay.ports["gateway"]) as client:
        client.read()
        client.say(b"EHLO client.example")
        client.say(b"MAIL FROM:<ann@client.example>")
        assert client.say(b"RCPT TO:<bob@OURS.example>").startswith("250")
        assert client.say(b"RCPT TO:<victim@other.example>").startswith("550 5.7.1")
        assert client.say(b"DATA").startswith("354")
        client.send(b"From: ann@client.example\r\nTo: victim@other.example\r\n\r\nhello\r\n.\r\nQUIT\r\n")
        replies = client.rest()
    assert replies[0].startswith("250"), replies
    (transaction,) = recorder.transactions[before:]
    assert transaction.recipients == [b"TO:<bob@OURS.example>"]

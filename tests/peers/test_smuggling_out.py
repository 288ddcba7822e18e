"""SMTP smuggling through the relay: whatever a client hides in a message, one message leaves, in clean lines.

A next hop that trusts the relay relaxes its own checks, so the proxied path must be perfect. The
next hops are a recorder that ends lines at any LF, and Postfix 3.7, whose defaults still take bare newlines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.clients import Transport
from tests.support.mail import make_mail, with_token
from tests.support.postfix import running_postfix
from tests.support.raw_client import raw_client
from tests.support.recorder import Recorder, running_recorder
from tests.support.relay_process import RelayProcess, running_relay

pytestmark = pytest.mark.xdist_group("smuggling")

# The fake ends of data, as published with the attacks on Postfix, Sendmail, Exim, Exchange and others.
HIDDEN_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\n",
    b"\n.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\xc2\x85.\xc2\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
]
SMUGGLED = b"MAIL FROM:<smuggled@client.example>\r\nRCPT TO:<victim@%s>\r\nDATA\r\nX-Token: smuggled\r\n\r\nfake\r\n"
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with running_recorder() as recorder:
        yield recorder


def tables(port: int) -> dict[str, object]:
    return {
        "listener": {
            "gateway": {"role": "gateway", "domains": ["postfix.example", "recorder.example"]},
            "refuse": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]},
            "normalize": {
                "role": "submission",
                "allow": ["127.0.0.0/8"],
                "senders": ["*"],
                "bare_newline": "normalize",
            },
        },
        "hop": {"server": {"host": ["127.0.0.1"], "port": port, "tls": "none"}},
        "route": {"all": {"hop": "server"}},
        "limit": {"errors": 1000},
    }


@pytest.fixture(scope="module")
def relay(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay"), tables(recorder.port)) as relay:
        yield relay


def smuggle(port: int, end: bytes, domain: str) -> tuple[list[str], str]:
    """Send one mail with `end` and commands in its body. Returns the replies behind the true dot, and the token."""
    mail = make_mail("ann@client.example", f"bob@{domain}", b"before" + end + SMUGGLED % domain.encode())
    with raw_client(port) as client:
        client.read()
        client.say(b"EHLO client.example")
        assert client.say(b"MAIL FROM:<ann@client.example>").startswith("250")
        assert client.say(f"RCPT TO:<{mail.recipient}>".encode()).startswith("250")
        assert client.say(b"DATA").startswith("354")
        client.send(mail.content + b"\r\n.\r\nQUIT\r\n")
        return client.rest(), mail.token


def is_expected(listener: str, end: bytes, reply: str) -> bool:
    """NUL is refused everywhere; bare CR and LF too, but where `normalize` was asked for (550 5.6.0)."""
    refused = b"\x00" in end or (BARE.search(end) is not None and listener != "normalize")
    return reply.startswith("550 5.6.0" if refused else "250")


@pytest.mark.parametrize("listener", ["gateway", "refuse", "normalize"])
@pytest.mark.parametrize("end", HIDDEN_ENDS, ids=repr)
def test_what_is_hidden_in_a_message_leaves_as_part_of_one_clean_message(
    listener: str, end: bytes, relay: RelayProcess, recorder: Recorder
) -> None:
    before = len(recorder.transactions)
    replies, token = smuggle(relay.ports[listener], end, "recorder.example")

    assert len(replies) == 2, replies  # one for the dot, one for QUIT: nothing inside ran as a command
    assert is_expected(listener, end, replies[0]), replies
    assert replies[1].startswith("221"), replies
    taken = recorder.transactions[before:]
    assert len(taken) == (1 if replies[0].startswith("250") else 0)
    for reverse_path, recipients, content in taken:
        assert reverse_path.startswith(b"FROM:<ann@client.example>")
        assert recipients == [b"TO:<bob@recorder.example>"]
        assert token.encode() in content
        assert b"\r\nfake\r\n" in content
    wire = recorder.wire
    assert not BARE.search(wire), BARE.findall(wire)
    assert b"\x00" not in wire


def test_postfix_with_its_old_defaults_gets_one_message_for_one(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with (
        running_postfix(certificates) as postfix,
        running_relay(tmp_path / "relay", tables(postfix.ports[Transport.PLAIN])) as relay,
    ):
        tokens = {}
        for listener in ("gateway", "normalize"):
            for end in HIDDEN_ENDS:
                replies, token = smuggle(relay.ports[listener], end, postfix.domain)
                tokens[token] = replies[0].startswith("250")
        received = postfix.received()
        # Straight from the client this Postfix is taken in, so the bed would see it.
        smuggle(postfix.ports[Transport.PLAIN], b"\n.\r\n", postfix.domain)
        assert with_token(postfix.received(), "smuggled")
    assert any(tokens.values())
    assert {token: len(with_token(received, token)) for token in tokens} == {
        token: int(accepted) for token, accepted in tokens.items()
    }
    assert len(received) == sum(tokens.values())
    assert not with_token(received, "smuggled")


def test_the_recorder_would_see_a_smuggled_message() -> None:
    with running_recorder() as recorder:
        smuggle(recorder.port, b"\n.\r\n", "recorder.example")
        assert [taken.reverse_path for taken in recorder.transactions] == [
            b"FROM:<ann@client.example>",
            b"FROM:<smuggled@client.example>",
        ]

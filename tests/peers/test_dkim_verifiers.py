"""What the relay signs, foreign verifiers verify: OpenDKIM and Mail::DKIM, with keys from a real DNS server."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.sign import sign
from relay.publish.keys import new_key, zone_record
from tests.support.dkim_verifiers import Checked, mail_dkim, opendkim
from tests.support.knot import running_knot
from tests.support.recorder import running_recorder
from tests.support.relay_process import running_relay

pytestmark = pytest.mark.xdist_group("dkim-verifiers")

HEADER = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: a word\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n"
)
MESSAGES = {
    "plain": HEADER + b"\r\nhello\r\n",
    "empty body": HEADER + b"\r\n",
    "body of empty lines": HEADER + b"\r\n" + b"\r\n" * 50,
    "no final line end": HEADER + b"\r\nhello",
    "white space in lines": HEADER + b"\r\n\ta \t b \r\n \r\nc\t\r\n\r\n\r\n",
    "dots": HEADER + b"\r\n.\r\n..\r\n.a\r\n",
    "folded fields": HEADER + b"References: <1@a>\r\n\t<2@b>\r\n  <3@c>\r\nX-Other: a\r\n b\r\n\r\nhello\r\n",
    "UTF-8 fields and body": HEADER + "Cc: Bücher <b@example.com>\r\n\r\nGrüße\r\n".encode(),
    "fields of a list": HEADER + b"List-Unsubscribe: <https://a.example/>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Id: <a.example>\r\n\r\nhello\r\n",
    "fields more than once": b"Received: a\r\nReceived: b\r\nSubject: other\r\nTo: c@d\r\n" + HEADER + b"\r\nhello\r\n",
    "MIME": HEADER + b"MIME-Version: 1.0\r\nContent-Type: text/plain;\r\n\tcharset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa9\r\n",
    "large": HEADER + b"\r\n" + (b"x" * 70 + b"  \t y \r\n") * 20_000,
}
# Made by one who changes a signed message on its way.
CHANGES = {
    "body": lambda signed: signed + b"more\r\n",
    "subject": lambda signed: signed.replace(b"Subject: a word", b"Subject: another"),
    "a second From": lambda signed: b"From: eve@example.net\r\n" + signed,
    "a second Subject": lambda signed: b"Subject: other\r\n" + signed,
    "a Reply-To": lambda signed: b"Reply-To: eve@example.net\r\n" + signed,
    "a Content-Type": lambda signed: b"Content-Type: text/html\r\n" + signed,
}


class Published(NamedTuple):
    """keys: RSA first. files: theirs. port: of the DNS server that has their records."""

    keys: list[SigningKey]
    files: list[Path]
    port: int


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    files = [tmp_path_factory.mktemp("keys") / name for name in ("rsa.pem", "ed25519.pem")]
    keys = [
        new_key("example.org", "r1", Algorithm.RSA, files[0]),
        new_key("example.org", "e1", Algorithm.ED25519, files[1]),
    ]
    # The zone file has what `relay keys dns` prints, unchanged.
    zone = {name: [record] for name, _, record in (zone_record(key).partition(" ") for key in keys)}
    with running_knot({"example.org": zone}) as port:
        yield Published(keys, files, port)


def carried(signed: bytes) -> bytes:
    """As SMTP carries it: with a line end at the end."""
    return signed if signed.endswith(b"\r\n") else signed + b"\r\n"


@pytest.mark.parametrize("name", MESSAGES)
def test_opendkim_verifies_both_signatures(published: Published, tmp_path: Path, name: str) -> None:
    signed = carried(sign(MESSAGES[name], published.keys))
    assert opendkim(signed, published.port, tmp_path) == [Checked("r1", "pass"), Checked("e1", "pass")]


@pytest.mark.parametrize("name", MESSAGES)
def test_mail_dkim_verifies_the_rsa_signature(published: Published, name: str) -> None:
    rsa, ed25519 = mail_dkim(carried(sign(MESSAGES[name], published.keys)), published.port)
    assert rsa == Checked("r1", "pass")
    # Debian 12's Mail::DKIM has no Ed25519: that is why the two stand side by side (RFC 8463 §1).
    assert ed25519 in (Checked("e1", "pass"), Checked("e1", "invalid (unsupported algorithm ed25519-sha256)"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_message_verifies_nowhere(published: Published, tmp_path: Path, change: str) -> None:
    changed = CHANGES[change](sign(MESSAGES["plain"], published.keys))
    checked = opendkim(changed, published.port, tmp_path) + mail_dkim(changed, published.port)
    assert len(checked) == 4
    assert not [one for one in checked if one.result == "pass"]


@pytest.mark.parametrize("sender", ["ann@example.org", "ann@sub.example.org"])
def test_what_the_next_hop_gets_from_the_relay_verifies(published: Published, tmp_path: Path, sender: str) -> None:
    keys = {
        "rsa": {"selector": "r1", "file": published.files[0]},
        "ed25519": {"selector": "e1", "file": published.files[1], "algorithm": "ed25519-sha256"},
    }
    with running_recorder() as recorder:
        tables = {
            "listener": {"submission": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}},
            "hop": {"next": {"host": ["127.0.0.1"], "port": recorder.port, "tls": "none"}},
            "route": {"all": {"hop": "next"}},
            "domain": {"example": {"name": "example.org", "key": keys}},
        }
        content = MESSAGES["white space in lines"].replace(b"ann@example.org", sender.encode())
        with (
            running_relay(tmp_path / "relay", tables) as relay,
            smtplib.SMTP("127.0.0.1", relay.ports["submission"], local_hostname="client.example") as client,
        ):
            client.sendmail(sender, ["bob@example.com"], content)
        [(_, _, arrived)] = recorder.transactions
    assert opendkim(arrived, published.port, tmp_path) == [Checked("r1", "pass"), Checked("e1", "pass")]
    assert mail_dkim(arrived, published.port)[0] == Checked("r1", "pass")

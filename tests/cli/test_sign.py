"""`relay sign`: a message file, signed as the relay would."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.__main__ import main
from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.publish.keys import dns_name, dns_record, new_key
from tests.support.dkim_verifiers import dkimpy

MESSAGE = b"From: Ann <ann@sub.example.org>\r\nSubject: a word\r\n\r\nhello \xc3\xa9\r\n"
CONFIG = """
hostname = "localhost"
data = "{data}"
[listener.capture]
role = "capture"
port = 1025
[domain.org]
name = "example.org"
[domain.org.key.a]
selector = "s1"
file = "s1.pem"
algorithm = "ed25519-sha256"
[domain.none]
name = "none.example"
key = {{}}
"""


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKey:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(CONFIG.format(data=tmp_path))
    return new_key("example.org", "s1", Algorithm.ED25519, tmp_path / "s1.pem")


def relay(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["sign", *arguments], input=stdin)


def test_a_file_is_signed_and_its_octets_stay(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "message").write_bytes(MESSAGE)
    signed = relay("message")
    assert signed.exit_code == 0, signed.stderr
    assert signed.stdout_bytes.endswith(MESSAGE)
    assert dkimpy(signed.stdout_bytes, {dns_name(key): dns_record(key)}) == [True]
    assert signed.stderr == "relay: signed by example.org, selector s1, ed25519-sha256\n"


def test_line_ends_of_a_file_become_those_of_mail_and_it_says_so(key: SigningKey) -> None:
    signed = relay("-", stdin=MESSAGE.replace(b"\r\n", b"\n"))
    assert signed.exit_code == 0, signed.stderr
    assert signed.stdout_bytes.endswith(MESSAGE)
    assert "CRLF" in signed.stderr
    assert dkimpy(signed.stdout_bytes, {dns_name(key): dns_record(key)}) == [True]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (MESSAGE.replace(b"sub.example.org", b"example.net"), "example.net"),
        (MESSAGE.replace(b"sub.example.org", b"none.example"), "none.example"),
        (b"From: eve@example.net\r\n" + MESSAGE, "From"),
        (b" " + MESSAGE, "white space"),
        (MESSAGE + b"bare\rCR\r\n", "bare CR"),
        (MESSAGE + b"\x00\r\n", "NUL"),
        (b"", "From"),
    ],
)
def test_what_cannot_be_signed_is_exit_1_and_prints_no_message(key: SigningKey, message: bytes, said: str) -> None:
    signed = relay("-", stdin=message)
    assert signed.exit_code == 1
    assert signed.stdout_bytes == b""
    assert said in signed.stderr
    assert "Traceback" not in signed.stderr


def test_wrong_use_is_exit_2(tmp_path: Path, key: SigningKey) -> None:
    assert relay().exit_code == 2
    assert relay("no-such-file").exit_code == 2
    assert relay("-", "-c", "no-such.toml", stdin=MESSAGE).exit_code == 2
    (tmp_path / "s1.pem").chmod(0o644)
    exposed = relay("-", stdin=MESSAGE)
    assert exposed.exit_code == 2
    assert "s1.pem" in exposed.stderr


def test_help() -> None:
    assert relay("--help").exit_code == 0

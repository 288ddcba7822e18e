"""What only the whole configuration can be asked, a row for each question."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from relay.config.files import File
from relay.errors import ConfigError, Problem
from tests.support.certificates import make_certificates
from tests.support.configuration import OWN_ADDRESS, WORLD, read_good

Overrides = dict[str, object]

SUBMISSION, GATEWAY, CAPTURE = "listener.submission", "listener.gateway", "listener.capture"
HOP = "hop.mailbox"
KEY = "domain.d.key.k"
DOMAIN: Overrides = {"domain.d.name": "example.org", f"{KEY}.selector": "s", f"{KEY}.file": "d.pem"}
INBOX: Overrides = {f"{HOP}.host": [], f"{HOP}.kind": "inbox"}
LOGIN: Overrides = {f"{HOP}.username": "relay", f"{HOP}.password": "secret", f"{HOP}.tls": "required"}

ERRORS: list[tuple[Overrides, str, str]] = [
    # the name
    ({"hostname": "localhost"}, "hostname", "on loopback"),
    ({"hostname": "relay"}, "hostname", "on loopback"),
    ({"hostname": "relay", f"{GATEWAY}.host": "127.0.0.1"}, "hostname", "on loopback"),  # the hop is not
    # roles
    ({f"{SUBMISSION}.allow": [], f"{SUBMISSION}.senders": []}, SUBMISSION, "nobody may send"),
    ({f"{SUBMISSION}.senders": []}, f"{SUBMISSION}.allow", "needs `senders`"),
    ({f"{SUBMISSION}.allow": []}, f"{SUBMISSION}.senders", "needs `allow`"),
    ({f"{GATEWAY}.domains": []}, GATEWAY, "needs `domains`"),
    ({f"{GATEWAY}.senders": ["*"]}, f"{GATEWAY}.senders", "means nothing in the role gateway"),
    ({f"{GATEWAY}.allow": ["10.0.0.0/8"]}, f"{GATEWAY}.allow", "means nothing in the role gateway"),
    ({f"{GATEWAY}.bare_newline": "normalize"}, f"{GATEWAY}.bare_newline", "means nothing"),
    ({f"{GATEWAY}.long_lines": "fold"}, f"{GATEWAY}.long_lines", "means nothing"),
    ({f"{SUBMISSION}.domains": ["example.org"]}, f"{SUBMISSION}.domains", "it is for gateway"),
    ({f"{CAPTURE}.domains": ["example.org"]}, f"{CAPTURE}.domains", "it is for gateway"),
    # the open relay
    ({f"{SUBMISSION}.allow": ["0.0.0.0/0"]}, f"{SUBMISSION}.allow", "open relay"),
    ({f"{SUBMISSION}.allow": ["0.0.0.0/1", "128.0.0.0/1"]}, f"{SUBMISSION}.allow", "open relay"),
    ({f"{SUBMISSION}.allow": ["::/0"]}, f"{SUBMISSION}.allow", "open relay"),
    (
        {
            f"{SUBMISSION}.allow": ["16.0.0.0/8"],
            "listener.second.role": "submission",
            "listener.second.port": 2527,
            "listener.second.allow": ["17.0.0.0/8"],
            "listener.second.senders": ["*"],
        },
        "listener",
        "together",
    ),
    # ports
    ({f"{SUBMISSION}.port": 1025}, f"{CAPTURE}.port", "taken by [listener.submission]"),
    ({f"{SUBMISSION}.port": 2526}, f"{GATEWAY}.port", "taken by [listener.submission]"),  # 127.0.0.1 and 0.0.0.0
    ({"web.port": 2526}, "web.port", "taken by [listener.gateway]"),
    # TLS towards clients
    ({f"{SUBMISSION}.require_tls": True}, f"{SUBMISSION}.require_tls", "without TLS"),
    ({f"{SUBMISSION}.certificate": "x.pem"}, f"{SUBMISSION}.certificate", "without TLS"),
    ({f"{SUBMISSION}.tls": "starttls"}, f"{SUBMISSION}.tls", "needs `certificate`"),
    ({f"{SUBMISSION}.tls": "implicit"}, f"{SUBMISSION}.tls", "needs `key`"),
    (
        {f"{SUBMISSION}.host": "0.0.0.0", f"{SUBMISSION}.allow_plaintext_login": True},
        f"{SUBMISSION}.allow_plaintext_login",
        "in clear",
    ),
    # routes
    ({"route.all.hop": "mailbix"}, "route.all.hop", "did you mean mailbox?"),
    ({"route.all.listener": ["gatevay"]}, "route.all.listener", "did you mean gateway?"),
    ({"route.all.listener": ["capture", "gateway", "submission"]}, "route.all.listener", "capture captures"),
    ({"route.all.listener": ["gateway"]}, SUBMISSION, "no route takes its mail"),
    # next hops
    ({f"{HOP}.host": []}, HOP, "needs `host`"),
    ({f"{HOP}.host": ["127.0.0.1"], f"{HOP}.port": 2525}, f"{HOP}.host", "our own [listener.submission]"),
    ({f"{HOP}.host": ["localhost"], f"{HOP}.port": 2525}, f"{HOP}.host", "our own [listener.submission]"),
    ({f"{HOP}.host": ["::1"], f"{HOP}.port": 2525, f"{SUBMISSION}.host": "::"}, f"{HOP}.host", "our own"),
    ({f"{HOP}.host": ["relay.example.org"], f"{HOP}.port": 2526}, f"{HOP}.host", "our own [listener.gateway]"),
    ({f"{HOP}.host": [str(OWN_ADDRESS)], f"{HOP}.port": 2526}, f"{HOP}.host", "our own [listener.gateway]"),
    ({f"{HOP}.host": ["thishost"], f"{HOP}.port": 2526}, f"{HOP}.host", "our own [listener.gateway]"),
    ({**INBOX, f"{HOP}.port": 587}, f"{HOP}.port", "means nothing for the inbox"),
    ({f"{HOP}.kind": "inbox"}, f"{HOP}.host", "means nothing for the inbox"),
    ({**LOGIN, f"{HOP}.tls": "opportunistic"}, f"{HOP}.tls", "in clear"),
    ({**LOGIN, f"{HOP}.tls": "none"}, f"{HOP}.tls", "in clear"),
    ({**LOGIN, f"{HOP}.tls": "none", f"{HOP}.host": ["127.0.0.1", "192.0.2.1"]}, f"{HOP}.tls", "192.0.2.1"),
    ({f"{HOP}.username": "relay", f"{HOP}.tls": "required"}, f"{HOP}.username", "needs a password"),
    ({f"{HOP}.password": "secret"}, HOP, "needs `username`"),
    ({**LOGIN, f"{HOP}.password": ""}, f"{HOP}.password", "is empty"),
    ({**LOGIN, f"{HOP}.username": "a\x00b"}, f"{HOP}.username", "characters that no login can have"),  # RFC 4616 §2
    ({**LOGIN, f"{HOP}.password": "a\r\nb"}, f"{HOP}.password", "characters that no login can have"),
    ({**LOGIN, f"{HOP}.password_file": "none"}, f"{HOP}.password_file", "does not exist"),
    ({f"{HOP}.ca": "ca.pem"}, f"{HOP}.ca", "of no use"),
    ({f"{HOP}.ca": "none", f"{HOP}.tls": "required"}, f"{HOP}.ca", "does not exist"),
    ({f"{HOP}.certificate": "c.pem"}, HOP, "both `certificate` and `key`"),
    # files
    ({"login.file": "none"}, "login.file", "does not exist"),
    (DOMAIN, f"{KEY}.file", "relay keys new"),
    # domains
    (
        {
            **DOMAIN,
            "domain.e.name": "EXAMPLE.org",
            "domain.e.key.k.selector": "t",
            "domain.e.key.k.file": "e.pem",
        },
        "domain.e.name",
        "already the name of [domain.d]",
    ),
    (
        {**DOMAIN, "domain.d.key.l.selector": "S", "domain.d.key.l.file": "l.pem"},
        "domain.d.key.l.selector",
        "already the selector of [domain.d.key.k]",
    ),
    # delays and deadlines
    ({"delay.greeting.gatevay": "2s"}, "delay.greeting.gatevay", "did you mean gateway?"),
    ({"delay.greeting.gateway": "280s"}, "delay.greeting.gateway", "§4.5.3.2.1"),
    ({"delay.error": "5 min"}, "delay.error", "patience"),
    ({"timeout.dns": "20s"}, "timeout.dns", "less than timeout.checks"),
    ({"timeout.checks": "5 min"}, "timeout.checks", "less than timeout.client_patience"),
    ({"timeout.client_patience": "20s"}, "timeout.checks", "less than timeout.client_patience"),
]

WARNINGS: list[tuple[Overrides, str, str]] = [
    ({f"{SUBMISSION}.allow": ["172.17.0.1"]}, f"{SUBMISSION}.allow", "container bridge"),
    ({f"{CAPTURE}.host": "0.0.0.0"}, f"{CAPTURE}.host", "takes mail from everyone"),
    ({"timeout.final_dot": "599s"}, "timeout.final_dot", "may arrive twice"),
    ({"route.all.recipient_domain": ["example.org"]}, SUBMISSION, "some recipients; they get 550"),
    ({"route.all.sender_domain": ["example.org"]}, GATEWAY, "example.org; they get 550"),
    (
        {f"{GATEWAY}.domains": ["example.org", "b.example"], "route.all.recipient_domain": ["example.org"]},
        GATEWAY,
        "b.e",
    ),
]

FINE: list[Overrides] = [
    {"delay.greeting.gateway": "279s"},
    {"timeout.command": "5s"},
    {"timeout.dns": "19s"},
    {f"{SUBMISSION}.allow": ["127.0.0.1/32"]},
    {f"{SUBMISSION}.allow": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]},
    {f"{SUBMISSION}.senders": ["*"]},
    {f"{SUBMISSION}.port": 0, f"{GATEWAY}.port": 0, f"{CAPTURE}.port": 0, "web.port": 0},
    {f"{CAPTURE}.host": "127.0.0.2", f"{CAPTURE}.port": 2525},
    INBOX,
    LOGIN,
    {**LOGIN, f"{HOP}.tls": "none", f"{HOP}.host": ["127.0.0.1"]},
    {f"{HOP}.host": ["127.0.0.1"], f"{HOP}.port": 25},
    {**INBOX, "hostname": "localhost", f"{GATEWAY}.host": "::1"},
    {**DOMAIN, f"{KEY}.generate": True},
]


def problems(folder: Path, overrides: Overrides, **world: object) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings."""
    try:
        return [], list(read_good(folder, overrides, replace(WORLD, **world)).warnings)  # type: ignore[arg-type]
    except ConfigError as error:
        return list(error.problems), []


def has(found: list[Problem], key: str, words: str) -> bool:
    return any(one.key == key and words in one.text for one in found)


@pytest.mark.parametrize(("overrides", "key", "words"), ERRORS)
def test_it_does_not_load(tmp_path: Path, overrides: Overrides, key: str, words: str) -> None:
    errors, _ = problems(tmp_path, overrides)
    assert has(errors, key, words), errors


@pytest.mark.parametrize(("overrides", "key", "words"), WARNINGS)
def test_it_loads_with_a_warning(tmp_path: Path, overrides: Overrides, key: str, words: str) -> None:
    errors, warnings = problems(tmp_path, overrides)
    assert not errors
    assert has(warnings, key, words), warnings


@pytest.mark.parametrize("overrides", FINE)
def test_it_loads(tmp_path: Path, overrides: Overrides) -> None:
    assert problems(tmp_path, overrides) == ([], [])


# files

WITH_TLS: Overrides = {
    f"{SUBMISSION}.tls": "starttls",
    f"{SUBMISSION}.certificate": "chain.pem",
    f"{SUBMISSION}.key": "key.pem",
}


def test_a_certificate_and_its_key(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    assert problems(tmp_path, WITH_TLS, now=datetime.now(UTC)) == ([], [])


@pytest.mark.parametrize(
    ("now", "words"),
    [(datetime(9000, 1, 1, tzinfo=UTC), "expired"), (datetime(1999, 1, 1, tzinfo=UTC), "not valid before")],
)
def test_a_certificate_out_of_its_time_is_a_warning(tmp_path: Path, now: datetime, words: str) -> None:
    make_certificates(tmp_path)
    errors, warnings = problems(tmp_path, WITH_TLS, now=now)
    assert not errors
    assert has(warnings, f"{SUBMISSION}.certificate", words)


def other_key(folder: Path) -> None:
    (folder / "key.pem").write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())


def encrypted_key(folder: Path) -> None:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    (folder / "key.pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))


@pytest.mark.parametrize(
    ("spoil", "field", "words"),
    [
        (other_key, "key", "not the certificate's"),
        (encrypted_key, "key", "passphrase"),
        (lambda folder: (folder / "key.pem").write_text("x"), "key", "no PEM private key"),
        (lambda folder: (folder / "key.pem").unlink(), "key", "does not exist"),
        (lambda folder: (folder / "key.pem").chmod(0o644), "key", "chmod 600"),
        (lambda folder: (folder / "key.pem").chmod(0o640), "key", "chmod 600"),
        (lambda folder: (folder / "chain.pem").unlink(), "certificate", "does not exist"),
        (lambda folder: (folder / "chain.pem").write_text("x"), "certificate", "no PEM certificate"),
        (
            lambda folder: ((folder / "chain.pem").unlink(), (folder / "chain.pem").mkdir()),
            "certificate",
            "not a regular file",
        ),
        (
            lambda folder: ((folder / "key.pem").unlink(), os.mkfifo(folder / "key.pem")),
            "key",
            "not a regular file",
        ),
    ],
)
def test_a_spoilt_certificate(tmp_path: Path, spoil: Callable[[Path], object], field: str, words: str) -> None:
    make_certificates(tmp_path)
    spoil(tmp_path)
    errors, _ = problems(tmp_path, WITH_TLS)
    assert has(errors, f"{SUBMISSION}.{field}", words), errors


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form)


def write_secret(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("content", "mode", "algorithm", "words"),
    [
        (pem(ed25519.Ed25519PrivateKey.generate()), 0o600, "ed25519-sha256", ""),
        (pem(rsa.generate_private_key(65537, 1024)), 0o600, "rsa-sha256", ""),
        (pem(rsa.generate_private_key(65537, 1024)), 0o400, "rsa-sha256", ""),
        (pem(ed25519.Ed25519PrivateKey.generate()), 0o600, "rsa-sha256", "not one for rsa-sha256"),
        (pem(rsa.generate_private_key(65537, 1024)), 0o600, "ed25519-sha256", "not one for ed25519-sha256"),
        (b"junk", 0o600, "rsa-sha256", "no PEM private key"),
        (b"", 0o600, "rsa-sha256", "no PEM private key"),
        (pem(ed25519.Ed25519PrivateKey.generate()), 0o604, "ed25519-sha256", "everyone may read"),
        (pem(ed25519.Ed25519PrivateKey.generate()), 0o640, "ed25519-sha256", "its group may read"),
        (pem(ed25519.Ed25519PrivateKey.generate()), 0o602, "ed25519-sha256", "everyone may read or change"),
    ],
)
def test_a_dkim_key(tmp_path: Path, content: bytes, mode: int, algorithm: str, words: str) -> None:
    write_secret(tmp_path / "data" / "d.pem", content, mode)  # relative to `data`
    errors, _ = problems(tmp_path, {**DOMAIN, f"{KEY}.algorithm": algorithm, f"{KEY}.generate": True})
    assert has(errors, f"{KEY}.file", words) if words else not errors, errors


@pytest.mark.parametrize(
    ("mode", "owner", "user", "is_fine"),
    [
        (0o600, 7, 7, True),
        (0o400, 7, 7, True),
        (0o640, 7, 7, False),  # ours: no group is needed to read it
        (0o640, 0, 7, True),  # root:ssl-cert, the group is how we read it
        (0o660, 0, 7, False),
        (0o644, 0, 7, False),
    ],
)
def test_who_may_read_a_secret(tmp_path: Path, mode: int, owner: int, user: int, is_fine: bool) -> None:
    file = File(b"ann: $argon2id$", mode, owner)
    errors, _ = problems(tmp_path, {"login.file": "x"}, read=lambda path: file, user=user)
    assert has(errors, "login.file", "chmod") is not is_fine


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    def refuse(path: Path) -> File:
        raise PermissionError(13, "Permission denied")

    errors, _ = problems(tmp_path, {**DOMAIN, f"{KEY}.generate": True}, read=refuse)
    assert has(errors, f"{KEY}.file", "permission denied")


def test_a_login_file_that_no_client_can_use(tmp_path: Path) -> None:
    write_secret(tmp_path / "logins", b"ann: $argon2id$ *\n")
    overrides: Overrides = {"login.file": "logins"}
    nobody: Overrides = {f"{SUBMISSION}.allow": [], f"{SUBMISSION}.senders": []}
    assert has(problems(tmp_path, overrides)[1], f"{SUBMISSION}.tls", "nobody can log in")
    assert has(problems(tmp_path, overrides | nobody)[0], f"{SUBMISSION}.tls", "nobody can log in")
    allowed: Overrides = {f"{SUBMISSION}.allow_plaintext_login": True}
    assert problems(tmp_path, overrides | nobody | allowed) == ([], [])


def test_the_password_file_becomes_the_password(tmp_path: Path) -> None:
    write_secret(tmp_path / "secret", b"pass word \r\n")
    hop = read_good(tmp_path, {f"{HOP}.username": "u", f"{HOP}.tls": "required", f"{HOP}.password_file": "secret"})
    password = hop.config.hop["mailbox"].password
    assert password is not None
    assert password.get_secret_value() == "pass word "


def test_a_password_and_a_password_file(tmp_path: Path) -> None:
    write_secret(tmp_path / "secret", b"x")
    errors, _ = problems(tmp_path, {**LOGIN, f"{HOP}.password_file": "secret"})
    assert has(errors, f"{HOP}.password", "keep one of them")

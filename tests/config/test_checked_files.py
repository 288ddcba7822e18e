"""The files that a configuration names, spoilt in every way."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from relay.config.files import File
from relay.config.source import read
from relay.errors import ConfigError
from tests.support.certificates import make_certificates
from tests.support.configuration import (
    DOMAIN,
    GATEWAY,
    GOOD,
    HOP,
    KEY,
    LOGIN,
    OAUTH2,
    RATE,
    SUBMISSION,
    WORLD,
    Overrides,
    has,
    problems,
    read_good,
)

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


OTHER: Overrides = {
    f"{SUBMISSION}.sni.other.certificate": "sni/chain.pem",
    f"{SUBMISSION}.sni.other.key": "sni/key.pem",
}


def test_a_further_certificate_and_its_key(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    (tmp_path / "sni").mkdir()
    make_certificates(tmp_path / "sni")
    assert problems(tmp_path, WITH_TLS | OTHER, now=datetime.now(UTC)) == ([], [])
    mixed = OTHER | {f"{SUBMISSION}.sni.other.key": "key.pem"}
    assert has(problems(tmp_path, WITH_TLS | mixed)[0], f"{SUBMISSION}.sni.other.key", "not the certificate's")
    (tmp_path / "sni/key.pem").chmod(0o644)
    assert has(problems(tmp_path, WITH_TLS | OTHER)[0], f"{SUBMISSION}.sni.other.key", "chmod 600")


def test_a_further_certificate_without_a_name(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    (tmp_path / "sni").mkdir()
    make_certificates(tmp_path / "sni")
    authority = trustme.CA()  # its own certificate has no name of a host
    (tmp_path / "sni/chain.pem").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "sni/key.pem").write_bytes(authority.private_key_pem.bytes())
    errors, _ = problems(tmp_path, WITH_TLS | OTHER)
    assert has(errors, f"{SUBMISSION}.sni.other.certificate", "names no host"), errors


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


ANN: Overrides = {"login.file": "logins", f"{SUBMISSION}.allow_plaintext_login": True}


def test_a_route_and_a_rate_by_login(tmp_path: Path) -> None:
    write_secret(tmp_path / "logins", b"# people\n\nann: $argon2id$ *\n bob : $argon2id$ *\n")
    by_login: Overrides = ANN | RATE | {"rate.r.per": "login"}
    assert problems(tmp_path, by_login) == ([], [])
    gateway = by_login | {"rate.r.listener": ["gateway"]}
    assert has(problems(tmp_path, gateway)[0], "rate.r.per", "nobody logs in on gateway")
    second: Overrides = {"route.some.hop": "mailbox", "route.some.login": ["ann", "bob"]}
    assert problems(tmp_path, ANN | second) == ([], [])
    # No error: taking a login out of the file must not keep a reload from taking it out of the relay.
    errors, warnings = problems(tmp_path, ANN | second | {"route.some.login": ["amn"]})
    assert not errors
    assert has(warnings, "route.some.login", "did you mean ann?")
    errors, _ = problems(tmp_path, ANN | second | {"route.some.listener": ["gateway"]})
    assert has(errors, "route.some.login", "nobody logs in on gateway")


def test_a_recipient_file(tmp_path: Path) -> None:
    (tmp_path / "people").write_text("ann@example.org\n")
    (tmp_path / "people").chmod(0o644)  # no secret
    assert problems(tmp_path, {f"{GATEWAY}.recipients": "people"}) == ([], [])
    (tmp_path / "people").write_text("".join(f"{number}@example.org\n" for number in range(100_000)))
    assert problems(tmp_path, {f"{GATEWAY}.recipients": "people"}) == ([], [])


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


def test_the_files_of_oauth2_become_its_secrets(tmp_path: Path) -> None:
    write_secret(tmp_path / "id", b"s\xc3\xa9cret\n")
    write_secret(tmp_path / "token", b"1//0token\r\n")
    without = {name: OAUTH2[name] for name in OAUTH2 if "secret" not in name}
    files: Overrides = {f"{HOP}.oauth2.client_secret_file": "id", f"{HOP}.oauth2.refresh_token_file": "token"}
    loaded = read_good(tmp_path, without | files)
    oauth2 = loaded.config.hop["mailbox"].oauth2
    assert oauth2 is not None
    assert oauth2.client_secret is not None
    assert oauth2.client_secret.get_secret_value() == "s\u00e9cret"
    assert oauth2.refresh_token is not None
    assert oauth2.refresh_token.get_secret_value() == "1//0token"
    assert "token" not in repr(oauth2.refresh_token)
    for name in ("client_secret_file", "refresh_token_file"):
        (tmp_path / str(files[f"{HOP}.oauth2.{name}"])).chmod(0o644)
        assert has(problems(tmp_path, without | files)[0], f"{HOP}.oauth2.{name}", "chmod 600")


def test_a_configuration_with_a_client_secret_is_a_secret_itself(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        GOOD + 'username = "u"\ntls = "required"\n'
        '[hop.mailbox.oauth2]\ntoken_url = "https://a.example/"\nclient_id = "i"\nclient_secret = "s"\n'
    )
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="holds a secret"):
        read(file, {}, {}, WORLD)
    file.chmod(0o600)
    assert not read(file, {}, {}, WORLD).warnings


def test_a_password_and_a_password_file(tmp_path: Path) -> None:
    write_secret(tmp_path / "secret", b"x")
    errors, _ = problems(tmp_path, {**LOGIN, f"{HOP}.password_file": "secret"})
    assert has(errors, f"{HOP}.password", "keep one of them")

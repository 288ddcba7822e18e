"""Private keys from files: which are taken, and what the error says of the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from relay.config.models import Algorithm
from relay.edit.key import SigningKey, key_name
from relay.errors import ConfigError, MalformedAddress
from tests.support.peers import require

RSA, ED25519 = Algorithm.RSA, Algorithm.ED25519


def made_by_openssl(path: Path, *options: str) -> Path:
    """A private key file, mode 0600, from `openssl genpkey`."""
    command = [require("openssl", "openssl"), "genpkey", "-out", str(path), *options]
    subprocess.run(command, check=True, capture_output=True)
    path.chmod(0o600)
    return path


@pytest.fixture
def rsa(tmp_path: Path) -> Path:
    return made_by_openssl(tmp_path / "rsa.pem", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")


@pytest.fixture
def ed25519(tmp_path: Path) -> Path:
    return made_by_openssl(tmp_path / "ed25519.pem", "-algorithm", "ED25519")


def fault(path: Path, algorithm: Algorithm = RSA, domain: str = "example.org", selector: str = "s") -> str:
    with pytest.raises(ConfigError) as caught:
        SigningKey.load(domain, selector, algorithm, path, key="domain.org.key.s.file")
    [problem] = caught.value.problems
    assert problem.key == "domain.org.key.s.file"
    return problem.text


def test_keys_made_by_openssl_are_taken(rsa: Path, ed25519: Path) -> None:
    assert SigningKey.load("Example.ORG", "S1", RSA, rsa).domain == "example.org"
    assert SigningKey.load("bücher.example", "s1", ED25519, ed25519).domain == "xn--bcher-kva.example"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o610])
def test_a_key_that_others_reach_is_not_taken(rsa: Path, mode: int) -> None:
    rsa.chmod(mode)
    assert "chmod 600" in fault(rsa)


def test_the_key_must_be_one_for_the_algorithm(rsa: Path, ed25519: Path) -> None:
    assert "not one for ed25519-sha256" in fault(rsa, ED25519)
    assert "not one for rsa-sha256" in fault(ed25519, RSA)


def test_rsa_below_1024_bits_is_not_taken(tmp_path: Path) -> None:
    # RFC 8301 §3.2
    weak = made_by_openssl(tmp_path / "weak.pem", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512")
    assert "512 bits" in fault(weak)


def test_other_files_are_not_taken(tmp_path: Path, rsa: Path) -> None:
    elliptic = made_by_openssl(tmp_path / "ec.pem", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    assert "not one for" in fault(elliptic)
    locked = made_by_openssl(tmp_path / "locked.pem", "-algorithm", "ED25519", "-aes-128-cbc", "-pass", "pass:x")
    assert "passphrase" in fault(locked, ED25519)
    rsa.write_bytes(b"secret junk")
    assert "no PEM private key" in fault(rsa)
    assert "secret" not in fault(rsa)
    assert "does not exist" in fault(tmp_path / "none.pem")
    assert "cannot be read" in fault(tmp_path)


@pytest.mark.parametrize(
    ("domain", "selector"), [("", "s"), ("a..b", "s"), ("a@b", "s"), ("a", ""), ("a", "../s"), ("a", "s;")]
)
def test_domain_and_selector_are_names(rsa: Path, domain: str, selector: str) -> None:
    assert fault(rsa, domain=domain, selector=selector)
    with pytest.raises(MalformedAddress):
        key_name(domain, selector)


def test_a_key_does_not_show_itself(rsa: Path) -> None:
    key = SigningKey.load("example.org", "s", RSA, rsa)
    assert repr(key) == f"SigningKey(domain='example.org', selector='s', algorithm={RSA!r})"

"""Keys of our own: written once, for their owner only; and their records, read back by other tools."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from pathlib import Path

import dns.rdtypes.ANY.TXT
import dns.zone
import pytest

from relay.config.models import Algorithm, Domain
from relay.edit.key import SigningKey
from relay.errors import ConfigError
from relay.fact import Fact
from relay.publish.keys import default_selector, dns_name, dns_record, make_missing_keys, new_key, zone_record
from tests.support.clock import JumpingClock
from tests.support.peers import require

ALGORITHMS = list(Algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_new_key_is_a_file_for_its_owner_that_loads(tmp_path: Path, algorithm: Algorithm) -> None:
    path = tmp_path / "keys" / "new.pem"
    before = os.umask(0)
    try:
        made = new_key("Example.ORG", "S1", algorithm, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")  # PKCS #8, RFC 5958
    loaded = SigningKey.load("example.org", "s1", algorithm, path)
    assert (made.domain, made.selector, dns_record(made)) == ("example.org", "s1", dns_record(loaded))
    assert list(path.parent.iterdir()) == [path], "nothing else is left"


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError, match="never overwritten"):
        new_key("example.org", "s1", Algorithm.ED25519, path)
    assert path.read_bytes() == b"old"
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(ConfigError, match="never overwritten"):
        new_key("example.org", "s1", Algorithm.ED25519, link)
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        new_key("example.org", "s1", Algorithm.ED25519, tmp_path / "file" / "key.pem")


@pytest.mark.parametrize(("domain", "selector"), [("a..b", "s"), ("example.org", "../../s"), ("", "s")])
def test_domain_and_selector_are_names(tmp_path: Path, domain: str, selector: str) -> None:
    with pytest.raises(ConfigError):
        new_key(domain, selector, Algorithm.ED25519, tmp_path / "key.pem")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_record_has_the_public_key_that_openssl_finds(tmp_path: Path, algorithm: Algorithm) -> None:
    key = new_key("example.org", "s1", algorithm, tmp_path / "key.pem")
    command = [require("openssl", "openssl"), "pkey", "-in", str(tmp_path / "key.pem"), "-pubout", "-outform", "DER"]
    public = subprocess.run(command, check=True, capture_output=True).stdout
    tags = dict(tag.strip().split("=", 1) for tag in dns_record(key).split(";"))
    assert next(iter(tags)) == "v", "RFC 6376 §3.6.1: the version comes first"
    assert tags["v"] == "DKIM1"
    if algorithm is Algorithm.RSA:
        assert tags["k"] == "rsa"
        assert base64.b64decode(tags["p"], validate=True) == public
    else:
        assert tags["k"] == "ed25519"
        assert base64.b64decode(tags["p"], validate=True) == public[-32:]  # RFC 8463 §4: the key without its wrapping


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_zone_record_is_one_that_a_name_server_reads(tmp_path: Path, algorithm: Algorithm) -> None:
    key = new_key("example.org", "s1", algorithm, tmp_path / "key.pem")
    text = f"$TTL 60\n@ SOA ns hostmaster 1 1 1 1 1\n@ NS ns\n{zone_record(key)}\n"
    zone = dns.zone.from_text(text, "example.org", relativize=False)
    [record] = zone.find_rdataset(f"{dns_name(key)}.", "TXT")
    assert isinstance(record, dns.rdtypes.ANY.TXT.TXT)
    assert b"".join(record.strings).decode() == dns_record(key)
    assert all(len(string) <= 255 for string in record.strings)  # RFC 1035 §3.3


@pytest.mark.parametrize(
    ("algorithm", "time", "selector"),
    [
        (Algorithm.RSA, 1_795_262_400, "r20261121"),
        (Algorithm.ED25519, 1_795_305_599.9, "e20261121"),
        (Algorithm.ED25519, 1_795_305_600, "e20261122"),
    ],
)
def test_the_selector_tells_algorithm_and_day(algorithm: Algorithm, time: float, selector: str) -> None:
    assert default_selector(algorithm, time) == selector


def test_missing_keys_are_made_where_the_configuration_says_so(tmp_path: Path) -> None:
    there = tmp_path / "there.pem"
    new_key("example.org", "there", Algorithm.ED25519, there)
    content = there.read_bytes()
    key = {
        "there": {"selector": "there", "file": there, "algorithm": "ed25519-sha256", "generate": True},
        "made": {"selector": "made", "file": tmp_path / "made.pem", "algorithm": "ed25519-sha256", "generate": True},
        "not": {"selector": "not", "file": tmp_path / "not.pem"},
    }
    domain = Domain.model_validate({"name": "example.org", "key": key})
    facts = list(make_missing_keys({"org": domain}, JumpingClock()))
    values = {"domain": "example.org", "selector": "made", "file": str(tmp_path / "made.pem")}
    assert facts == [Fact("publish.key_made", "", values)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.pem", "there.pem"]
    assert there.read_bytes() == content
    assert not list(make_missing_keys({"org": domain}, JumpingClock())), "once"

"""DKIM keys of our own: made, and shown as the DNS wants them.

A key file is written whole or not at all, for its owner only, and never over another file.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from relay.clock import Clock
from relay.config.models import Algorithm, Domain
from relay.edit.key import SigningKey, key_name
from relay.errors import ConfigError, MalformedAddress, Problem
from relay.fact import Fact

RSA_BITS = 2048  # RFC 8301 §3.2; 4096 would not fit one UDP answer
MAX_STRING = 255  # octets in one string of a TXT record (RFC 1035 §3.3)


def default_selector(algorithm: Algorithm, time: float) -> str:
    """`r20261122` or `e20261122`: the algorithm's letter and the day (UTC), so that keys sort by age."""
    return f"{algorithm[0]}{datetime.fromtimestamp(int(time), UTC):%Y%m%d}"


def new_key(domain: str, selector: str, algorithm: Algorithm, path: Path) -> SigningKey:
    """Make a key and write it to `path` as PEM (PKCS #8), mode 0600.

    The folder is made if it is missing. Raises ConfigError; an existing file is never touched.
    """
    try:
        domain, selector = key_name(domain, selector)
    except MalformedAddress as error:
        raise ConfigError(Problem("", "", str(error))) from None
    private = (
        Ed25519PrivateKey.generate()
        if algorithm is Algorithm.ED25519
        else rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(path, pem)
    except OSError as error:
        taken = isinstance(error, FileExistsError) and path.parent.is_dir()
        text = (
            "the file exists; a key is never overwritten" if taken else f"the key cannot be written: {error.strerror}"
        )
        raise ConfigError(Problem(str(path), "", text)) from None
    return SigningKey(domain, selector, algorithm, private)


def make_missing_keys(domains: Mapping[str, Domain], clock: Clock) -> Iterator[Fact]:
    """Make each configured key that says `generate` and has no file; a fact for each. Raises ConfigError."""
    for domain in domains.values():
        for key in domain.key.values():
            if key.generate and not key.file.exists():
                made = new_key(domain.name, key.selector, key.algorithm, key.file)
                values = {"domain": made.domain, "selector": made.selector, "file": str(key.file)}
                yield Fact("publish.key_made", "", values)


def dns_name(key: SigningKey) -> str:
    """Where the public key is published: `selector._domainkey.domain` (RFC 6376 §3.6.2.1)."""
    return f"{key.selector}._domainkey.{key.domain}"


def dns_record(key: SigningKey) -> str:
    """The TXT value with the public key (RFC 6376 §3.6.1, RFC 8463 §4), in one piece."""
    public = key.private.public_key()
    if isinstance(key.private, Ed25519PrivateKey):
        kind, octets = "ed25519", public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        kind, octets = "rsa", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k={kind}; p={b64encode(octets).decode()}"


def zone_record(key: SigningKey) -> str:
    """The same as a line or several of a zone file, in strings of at most 255 octets (RFC 1035 §5.1)."""
    value = dns_record(key)
    strings = [f'"{value[at : at + MAX_STRING]}"' for at in range(0, len(value), MAX_STRING)]
    text = strings[0] if len(strings) == 1 else "(\n\t" + "\n\t".join(strings) + "\n)"
    return f"{dns_name(key)}. IN TXT {text}"


def _write_once(path: Path, content: bytes) -> None:
    """Write `path` whole, mode 0600, durable. Raises FileExistsError."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)  # unlike rename, it fails when the name is taken
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()

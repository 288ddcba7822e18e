"""Private DKIM keys, read from their files at start.

STANDARDS  RFC 6376 §3.1 (selectors), RFC 8301 §3.2 (RSA of 1024 bits at least, 2048 better), RFC 8463.
TRUSTS     the file's content once only its owner can read it.
FAILS      ConfigError that names file and key; for several keys, all their problems at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from relay.address import domain_key, parse_domain
from relay.config.models import Algorithm, Domain
from relay.errors import ConfigError, MalformedAddress, Problem

MIN_RSA_BITS = 1024  # RFC 8301 §3.2: below that nobody may verify
MAX_RSA_BITS = 4096  # RFC 8301 §3.2: above that nobody need verify

_SELECTOR = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z"
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """domain: for d=, in lower-case A-labels. selector: for s=."""

    domain: str
    selector: str
    algorithm: Algorithm
    private: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, domain: str, selector: str, algorithm: Algorithm, path: Path, *, key: str = "") -> SigningKey:
        """Read the private key in the PEM file `path`, which group and others must not reach.

        key: the dotted configuration key that named the file, for the error. Raises ConfigError.
        """

        def unusable(text: str) -> ConfigError:
            return ConfigError(Problem(str(path), key, text))

        try:
            checked_domain, checked_selector = domain_key(parse_domain(domain)), check_selector(selector)
        except MalformedAddress as error:
            raise unusable(str(error)) from None
        try:
            if path.stat().st_mode & 0o077:
                raise unusable(f"others than its owner can reach the private key: chmod 600 {path}")
            private = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise unusable(f"the private key cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise unusable("no unencrypted PEM private key is in the file") from None
        if algorithm is Algorithm.RSA and isinstance(private, RSAPrivateKey):
            if not MIN_RSA_BITS <= private.key_size <= MAX_RSA_BITS:
                raise unusable(f"the RSA key has {private.key_size} bits, {MIN_RSA_BITS} to {MAX_RSA_BITS} will do")
            return cls(checked_domain, checked_selector, algorithm, private)
        if algorithm is Algorithm.ED25519 and isinstance(private, Ed25519PrivateKey):
            return cls(checked_domain, checked_selector, algorithm, private)
        raise unusable(f"the key is not one for {algorithm}")


def load_keys(domains: Mapping[str, Domain]) -> dict[str, tuple[SigningKey, ...]]:
    """The keys of each `[domain.NAME]` table, by NAME. Raises ConfigError with every problem."""
    loaded: dict[str, tuple[SigningKey, ...]] = {}
    problems: list[Problem] = []
    for table, domain in domains.items():
        keys = []
        for name, key in domain.key.items():
            try:
                dotted = f"domain.{table}.key.{name}.file"
                keys.append(SigningKey.load(domain.name, key.selector, key.algorithm, key.file, key=dotted))
            except ConfigError as error:
                problems += error.problems
        loaded[table] = tuple(keys)
    if problems:
        raise ConfigError(*problems)
    return loaded


def check_selector(selector: str) -> str:
    """`selector` itself when it is one (RFC 6376 §3.1). Raises MalformedAddress."""
    if len(selector) > 63 or not _SELECTOR.match(selector):
        raise MalformedAddress("the selector is not one: letters, digits, hyphens inside, dots between")
    return selector

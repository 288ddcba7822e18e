"""Private DKIM keys, read from their files at start.

STANDARDS  RFC 6376 §3.1 (selectors), RFC 8301 §3.2 (RSA of 1024 bits at least), RFC 8463 (Ed25519).
TRUSTS     a file that nobody else can read or change; `config/files.py` judges that, at load and here.
FAILS      ConfigError that names file and key; for several keys, all their problems at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from relay.address import domain_key, parse_domain
from relay.config.files import attempt, dkim_key_fault, exposed, private_key, read_file
from relay.config.models import Algorithm, Domain
from relay.errors import ConfigError, MalformedAddress, Problem

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """domain, selector: for d= and s=, in lower-case A-labels (RFC 6376 §3.5)."""

    domain: str
    selector: str
    algorithm: Algorithm
    private: PrivateKey = field(repr=False)

    @classmethod
    def load(cls, domain: str, selector: str, algorithm: Algorithm, path: Path, *, key: str = "") -> SigningKey:
        """Read the private key in the PEM file `path`, which nobody else may read.

        key: the dotted configuration key that named the file, for the error. Raises ConfigError.
        """
        try:
            named = key_name(domain, selector)
        except MalformedAddress as error:
            raise ConfigError(Problem("", key, str(error))) from None
        file, fault = attempt(read_file, path)
        if file:
            fault = exposed(file, path, os.geteuid()) or dkim_key_fault(file.content, algorithm)
        if fault or not file:
            raise ConfigError(Problem("", key, fault))
        return cls(*named, algorithm, cast(PrivateKey, private_key(file.content)))


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


def key_name(domain: str, selector: str) -> tuple[str, str]:
    """Both in lower-case A-labels, as d=, s= and the DNS have them. Raises MalformedAddress."""
    return domain_key(parse_domain(domain)), domain_key(parse_domain(selector))

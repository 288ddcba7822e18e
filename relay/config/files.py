"""Files that the configuration names: who else can read them, and whether they hold what they should.

STANDARDS  RFC 7468 (PEM), RFC 8301 §3.2 (DKIM key sizes), RFC 8463 (Ed25519).
TRUSTS     nothing in a file. What is found in one is never quoted.
FAILS      sentences, each with the way out; "" or nothing when all is well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from relay.config.environment import reason
from relay.config.models import Algorithm

MAX_FILE = 64 * 1024**2  # octets; a file of recipients may be long
WEAKEST_RSA = 1024  # bits, RFC 8301 §3.2


@dataclass(frozen=True, slots=True)
class File:
    """mode: the permission bits. owner: the user's number."""

    content: bytes
    mode: int
    owner: int


Read = Callable[[Path], File]  # raises OSError or ValueError


def read_file(path: Path) -> File:
    """A regular file of at most `MAX_FILE` octets. Raises OSError or ValueError."""
    if not stat.S_ISREG(path.stat().st_mode):  # before opening it: a pipe would hold us
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        status, content = os.fstat(file.fileno()), file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ValueError(f"it is longer than {MAX_FILE} octets")
    return File(content, stat.S_IMODE(status.st_mode), status.st_uid)


def attempt(read: Read, path: Path) -> tuple[File | None, str]:
    """The file, or why not."""
    try:
        return read(path), ""
    except FileNotFoundError:
        return None, missing(path)
    except (OSError, ValueError) as error:
        return None, f"{path} cannot be read: {reason(error)}"


def missing(path: Path) -> str:
    return f"{path} does not exist"


def exposed(file: File, path: Path, user: int) -> str:
    """Why `path`, which holds a secret, is not kept as one; "" when it is.

    A group may read a file that is not ours, since that is how we read it (`root:ssl-cert`, mode 640).
    """
    others = 0o077 if file.owner == user else 0o027
    if file.mode & others == 0:
        return ""
    who = "everyone" if file.mode & 0o007 else "its group"
    return f"{path} holds a secret, and {who} may read or change it; chmod {'600' if others == 0o077 else '640'} it"


def secret_in(file: File) -> str:
    """The password, secret or token that a file holds: all of it but the last line's end."""
    return file.content.decode("utf-8", "replace").rstrip("\r\n")


def login_names(content: bytes) -> list[str]:
    """The names in a login file, whose lines begin `name:`."""
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    return [line.partition(":")[0].strip() for line in lines if line and not line.startswith("#")]


def private_key(content: bytes) -> PrivateKeyTypes:
    """The key in a PEM file. Raises ValueError, whose text quotes nothing of it."""
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:
        raise ValueError("the key has a passphrase; write it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no PEM private key is in it") from None


def dkim_key_fault(content: bytes, algorithm: Algorithm) -> str:
    """Why the file cannot sign by `algorithm`; "" when it can."""
    try:
        key = private_key(content)
    except ValueError as error:
        return str(error)
    if not isinstance(key, RSAPrivateKey if algorithm is Algorithm.RSA else Ed25519PrivateKey):
        return f"its key is not one for {algorithm}"
    if isinstance(key, RSAPrivateKey) and key.key_size < WEAKEST_RSA:
        return f"its key has {key.key_size} bits; verifiers want {WEAKEST_RSA} at least, 2048 is usual"
    return ""


def chain(content: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file, ours first. Raises ValueError."""
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError("no PEM certificate is in it") from None


def pair_fault(certificates: list[x509.Certificate], key: PrivateKeyTypes) -> str:
    """Why the key is not the first certificate's; "" when it is."""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if certificates[0].public_key().public_bytes(*form) == key.public_key().public_bytes(*form):
        return ""
    return "the key is not the certificate's"


def has_names(certificate: x509.Certificate) -> bool:
    """It names a host, so that a client can ask for it (RFC 6066 §3, RFC 9525 §2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return bool(names.get_values_for_type(x509.DNSName))


def expiry(certificate: x509.Certificate, now: datetime) -> str:
    """That it is not valid at `now`; "" when it is."""
    if now > certificate.not_valid_after_utc:
        return f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if now < certificate.not_valid_before_utc:
        return f"the certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return ""

"""What all peers work with: DNS zones, a DKIM key, certificates, and the mails that are sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.network import HOST
from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.sign import sign
from relay.publish.keys import dns_record
from tests.support.certificates import Certificates, make_certificates
from tests.support.knot import running_knot
from tests.support.peers import open_folder

SENDER, RECIPIENT, CLIENT = "ann@example.org", "bob@example.com", "client.example.org"
SELECTOR = "bench"
OCTETS = 10_240  # of a mail, header and body
_LINE = b"The quick brown fox jumps over the lazy dog, again and again and again.\n"


@dataclass(frozen=True, slots=True)
class Site:
    """key: PEM file of example.org's RSA-2048 key. mail: unsigned; signed: by that key; files for `smtp-source -F`."""

    folder: Path
    key: Path
    certificates: Certificates
    mail: Path
    signed: Path


@contextmanager
def running_site() -> Iterator[Site]:
    """The files, and Knot on port 53, until the block ends."""
    key = SigningKey("example.org", SELECTOR, Algorithm.RSA, rsa.generate_private_key(65537, 2048))
    with open_folder("bench") as folder, running_knot(_zones(dns_record(key)), port=53):
        site = Site(folder, folder / "dkim.pem", make_certificates(folder), folder / "mail", folder / "signed")
        site.key.touch(mode=0o600)
        site.key.write_bytes(key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        mail = message(OCTETS)
        site.mail.write_bytes(mail)
        # smtp-source ends each line of a file with CRLF itself
        site.signed.write_bytes(sign(mail.replace(b"\n", b"\r\n"), [key]).replace(b"\r\n", b"\n"))
        yield site


def message(octets: int) -> bytes:
    """A mail of so many octets once its lines end with CRLF; here they end with LF."""
    header = (
        f"From: Ann <{SENDER}>\nTo: Bob <{RECIPIENT}>\nSubject: Figures\n"
        "Date: Sun, 22 Nov 2026 08:00:00 +0000\nMessage-ID: <1@example.org>\n\n"
    ).encode()
    lines = (octets - len(header) - header.count(b"\n")) // (len(_LINE) + 1)
    return header + _LINE * lines


def _zones(record: str) -> dict[str, dict[str, list[str]]]:
    """Whole top-level domains, so that a walk up the tree hears `no such name` rather than `refused`."""
    strings = " ".join(f'"{record[start : start + 250]}"' for start in range(0, len(record), 250))
    return {
        "org": {
            "example": ['TXT "v=spf1 ip4:192.0.2.0/24 -all"', "MX 10 client.example", f"A {HOST}"],
            "client.example": ['TXT "v=spf1 a -all"', f"A {HOST}"],
            "_dmarc.example": ['TXT "v=DMARC1; p=reject"'],
            f"{SELECTOR}._domainkey.example": [f"TXT {strings}"],
        },
        "com": {"example": ["MX 10 mail.example", f"A {HOST}"], "mail.example": [f"A {HOST}"]},
        "2.0.192.in-addr.arpa": {"1": [f"PTR {CLIENT}."]},
    }
